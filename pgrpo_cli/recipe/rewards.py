"""`rewards`: what a completion is worth to a preference group; here those that ask a model or run code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from .base import GroupName, PathText, TemplateText, Violation
from .judge import JudgeSection
from .reward_base import PretrainedFields, ReferenceReward, RewardBase
from .reward_text import TextReward

RUBRIC_VARIABLES = (
    "prompt",
    "completion",
    "preference_group",
    "preference_group_rubric",
    "columns",
    "reference",
)
"""What a rubric may use. `reference` is `columns.reference`; undefined where a row has none."""

DEFAULT_RUBRIC = """\
How well does the answer serve the user who asked? The user belongs to the group "{{ preference_group }}".
{{ preference_group_rubric }}

<conversation>
{{ prompt }}
</conversation>
<answer>
{{ completion }}
</answer>
"""


class EmbeddingReward(PretrainedFields, ReferenceReward):
    """Likeness in meaning to a reference: the cosine of two sentence embeddings, negative ones as 0.

    The embedding is the mean over the tokens, or the first token's where the model's folder says so
    (`1_Pooling/config.json` of sentence-transformers). A model with layers after that, such as LaBSE, is
    refused. Rows with a column `reference`:
    `{type: embedding, model: sentence-transformers/all-MiniLM-L6-v2}`.
    """

    type: Literal["embedding"] = "embedding"


class RewardModelReward(PretrainedFields, RewardBase):
    """An output of a sequence classification model on prompt and completion.

    A model with a chat template reads the conversation that its template makes of them; another one reads two
    texts, the messages and the completion. It stands beside the policy on the same device for the whole run.
    A preference model with one output: `{type: reward_model, model: org/reward-model}`; a classifier:
    `{type: reward_model, model: org/politeness, output: 1, activation: softmax}`.
    """

    type: Literal["reward_model"] = "reward_model"
    output: int = Field(0, ge=0, description="Index of the model's output that is used, from 0.")
    activation: Literal["raw", "sigmoid", "softmax"] = Field(
        "raw",
        description="`raw`: the output as it is; `sigmoid`: squeezed into [0, 1]; `softmax`: the probability "
        "of this output among all.",
    )
    min: float | None = Field(
        None, description="A lower raw output counts as this. Null, with max null too: none is cut."
    )
    max: float | None = Field(None, description="A higher raw output counts as this.")

    def violations(self) -> Iterator[Violation]:
        """Raw outputs are cut on both sides or on none; the other activations are bounded already."""
        low, high = self.min, self.max
        if low is None and high is None:
            return
        if self.activation != "raw":
            rule = f"min and max cut raw outputs, and activation is {self.activation!r}; remove them"
            yield Violation(("activation",), self.activation, rule)
        elif low is None or high is None:
            missing, other = ("min", "max") if low is None else ("max", "min")
            yield Violation((missing,), None, f"goes with {other}; set both, or none")
        elif low >= high:
            yield Violation(("min",), low, f"must be less than max ({high:.12g}); swap them")


class JudgeReward(JudgeSection, RewardBase):
    """A score by a language model behind any OpenAI-compatible chat-completions interface (docs/judge.md).

    The judge is asked while the model samples. A completion that it cannot score gets no reward, never 0. If
    the judge fails too often, the run stops; the same command resumes it. Answers are stored on disk, so no
    question is paid for twice. A judge on another machine needs `--allow-host HOST`.
    """

    by_preference_group: ClassVar[bool | None] = None

    type: Literal["judge"] = "judge"
    rubric: TemplateText = Field(
        DEFAULT_RUBRIC,
        description="What the judge reads: a Jinja template over " + ", ".join(RUBRIC_VARIABLES) + ". "
        "docs/data.md, Templates, lists what it may contain.",
    )
    scale: tuple[float, float] = Field((1, 10), description="Lowest and highest score.")
    raw: bool = Field(False, description="Keep scores as given, instead of mapping the scale to [0, 1].")

    @field_validator("scale", mode="before")
    @classmethod
    def _two_ends(cls, scale: Any) -> Any:
        if isinstance(scale, list) and len(scale) != 2:
            raise ValueError("must be two numbers, the lowest and the highest score, such as [1, 10]")
        return tuple(scale) if isinstance(scale, list) else scale

    def violations(self) -> Iterator[Violation]:
        """The rubric is a template over what there is, and a scale has two ends."""
        yield from self.rubric_violations(self.rubric, RUBRIC_VARIABLES, ("completion",))
        low, high = self.scale
        if low >= high:
            yield Violation(("scale", 0), low, f"must be below the highest score ({high}); swap them")


class TasteEmbedding(PretrainedFields):
    """A sentence embedding model whose principal components are features of answers, too."""

    components: int = Field(
        4, ge=1, le=64, description="Principal components of the embeddings of the answers in the picks."
    )


class TasteReward(RewardBase):
    """What a user likes better, learnt from their picks: a Bradley-Terry model over readable features.

    The features are those of the answer's form: its length, sentences, lists, questions, exclamation
    marks, capitals, formality, difficulty, enthusiasm, emoji, sentiment (with `pip install
    'pgrpo-cli[text]'`), how it addresses the user and takes up the question's words. A weight shared by
    all users and each user's own deviation from it are learnt by logistic regression with an L1 penalty, as
    a person goes by few things; a tie is half a win each way. The value is 1 / (1 + exp(-u)), where u is the
    user's utility of the answer, in standard deviations of it over the answers of the picks. Each feature
    counts up to the extremes of these answers, and on the side that the user likes up to what they have
    picked at least twice. Beyond that it costs, so that training cannot run away along it. An answer without
    a letter or digit is worth 0, and a pick with such an answer is not learnt from. Whose taste counts
    is the prompt's preference group, where it has picks, or else its user. Users whose picks it cannot
    predict better than chance are refused: picks by a coin between the same answers are accepted once in
    twenty times at most. Picks of the same two answers count as one piece of evidence. `pgrpo rewards try`
    shows what it has learnt of each user, and what each feature contributes.
    """

    by_preference_group: ClassVar[bool | None] = True
    value_range: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    type: Literal["taste"] = "taste"
    path: PathText = Field(
        description="A taste.jsonl, as `pgrpo taste` and `pgrpo serve` write it; relative paths start at the "
        "recipe's folder."
    )
    picks_by: Literal["user", "preference_group"] = Field(
        "user",
        description="Whose picks belong together. A pick without it counts for the other one.",
    )
    users: tuple[GroupName, ...] | None = Field(
        None,
        min_length=1,
        max_length=20,
        description="Users (or preference groups) whose taste gives rewards; the picks of all others only "
        "tell what is shared. Null: all, who may be 20 at most.",
    )
    embedding: TasteEmbedding | None = Field(
        None, description="Embedding model for further features. Null: only those that can be read."
    )


class PythonReward(RewardBase):
    """A function of yours, TRL's way: `f(prompts, completions, **columns) -> numbers`. Needs --allow-code.

    Prompts and completions are lists of texts; the columns are `preference_group`, `prompt_id` and the data
    rows' further columns, lists too. It returns a number for each completion, or None for no reward. A plain
    function is called once per step with all completions. An `async def` function, such as a judge over HTTP,
    is called with each batch of completions as soon as it is sampled, while the model samples the next one
    (`rollout.tokens_per_batch` sets their size). So it must score each completion by itself, whatever else is
    in its batch. Its calls run at once with each other and with other such rewards, on one event loop that
    lasts for the run; `asyncio.Semaphore` limits the requests in flight, `asyncio.to_thread` is for libraries
    that block. Nothing that a run records depends on how long a call takes.
    The file, and the function while it is called, may import modules of the file's folder.
    """

    by_preference_group: ClassVar[bool | None] = None

    type: Literal["python"] = "python"
    file: PathText = Field(description="Python file; a relative path starts at the recipe's folder.")
    function: str = Field("reward", description="Name of the function in it, plain or `async def`.")


class PluginReward(RewardBase):
    """A reward that an installed package registers under the entry point group `pgrpo.rewards`.

    Needs --allow-code: the recipe chooses which plug-in runs, and with which options.
    With `async def __call__` it is called as an `async def` function of `type: python` is.
    """

    parts: ClassVar[tuple[str, ...]] = ()
    by_preference_group: ClassVar[bool | None] = None

    type: Literal["plugin"] = "plugin"
    plugin: str = Field(description="Name of the entry point.")
    options: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of its factory.")


Reward = Annotated[
    TextReward
    | EmbeddingReward
    | RewardModelReward
    | TasteReward
    | JudgeReward
    | PythonReward
    | PluginReward,
    Field(discriminator="type"),
]


def pretrained_in(section: RewardBase) -> PretrainedFields | None:
    """The pretrained model that a reward loads, if it has one."""
    if isinstance(section, TasteReward):
        return section.embedding
    return section if isinstance(section, PretrainedFields) else None
