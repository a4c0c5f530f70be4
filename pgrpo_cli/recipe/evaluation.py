"""`eval`: held-out prompts, a judge that compares pairs of completions, and general tasks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from .base import PathText, Section, TemplateText, Violation
from .judge import JudgeSection

PAIR_VARIABLES = (
    "prompt",
    "first",
    "second",
    "preference_group",
    "preference_group_rubric",
    "columns",
    "reference",
)
"""What a rubric may use. `reference` is `columns.reference`; undefined where a row has none."""

PAIR_RUBRIC = """\
Which of two answers serves the user who asked better? The user belongs to the group "{{ preference_group }}".
{{ preference_group_rubric }}

<conversation>
{{ prompt }}
</conversation>
<answer_1>
{{ first }}
</answer_1>
<answer_2>
{{ second }}
</answer_2>
"""


class PairJudge(JudgeSection):
    """A language model that compares completions of the base model and the tuned one (docs/judge.md).

    Each pair is shown in both orders. The tuned model wins a pair if the judge prefers it in both, and loses
    it if in neither; ties and contradictions are ties. A pair that the judge cannot compare is left out and
    counted. A judge on another machine needs `--allow-host HOST`.
    """

    rubric: TemplateText = Field(
        PAIR_RUBRIC,
        description="What the judge reads: a Jinja template over " + ", ".join(PAIR_VARIABLES) + ". "
        "docs/data.md, Templates, lists what it may contain.",
    )
    pairs: int = Field(
        1,
        ge=1,
        description="Pairs compared per held-out prompt: the first completions of both models, then the "
        "second ones, and so on.",
    )

    def violations(self) -> Iterator[Violation]:
        """The rubric is a template over what there is, with a place for both completions."""
        yield from self.rubric_violations(self.rubric, PAIR_VARIABLES, ("first", "second"))

    @property
    def label(self) -> str:
        """How messages and counts name it."""
        return "eval.judge"


class LmEvalSection(Section):
    """Tasks of the LM Evaluation Harness, the package lm-eval, answered by the base model and the tuned one.

    Needs `pip install 'pgrpo-cli[lm-eval]'`. Most tasks get their documents from the Hugging Face Hub. Tasks
    that lm-eval marks as running a model's programs (`humaneval` and its like) are refused; those that fetch
    a metric's code (`squadv2` and its like) need --allow-code.
    """

    tasks: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="Names of tasks, groups and tags from the list of `lm-eval ls tasks`."
    )
    limit: int | None = Field(
        500, ge=1, description="How many of the first documents of each task are used; null: all."
    )
    num_fewshot: int | None = Field(
        None, ge=0, description="Solved examples before each document. Null: what the task says."
    )
    chat_template: bool = Field(
        False,
        description="Ask as a user in the chat template, with model.system_prompt, "
        "model.chat_template_kwargs, and few-shot examples as earlier turns.",
    )
    batch_size: int = Field(
        8, ge=1, description="Requests computed at a time; halved if they do not fit into memory."
    )
    max_length: int = Field(
        2048,
        ge=16,
        le=10_000_000,
        description="Maximum number of tokens of a request; the beginning of a longer one is cut off.",
    )
    include_path: PathText | None = Field(
        None,
        description="Folder of task files of your own; a relative path starts at the recipe's folder. Such "
        "files name Python to run: needs --allow-code.",
    )


CONVERSATION_TEMPERATURE = 0.6
"""The highest temperature of answers to a person. At 1, by which evaluations sample, a small model says much
that it is not sure of: SmolLM2 mixes languages.
"""


class EvalSection(Section):
    """Evaluation on held-out prompts."""

    every: int | None = Field(
        None,
        ge=1,
        description="Steps between evaluations of the model in training, which also come before the first "
        "step and after the last. Null: none.",
    )
    num_completions: int = Field(4, ge=1, le=4096, description="Completions per held-out prompt and model.")
    temperature: float = Field(1.0, ge=1e-3, le=1000, description="Sampling temperature.")
    max_prompts_per_group: int | None = Field(
        None, ge=1, description="Held-out prompts used per preference group; null: all."
    )
    bootstrap_samples: int = Field(
        2000, ge=100, le=100_000, description="Number of resamples for each interval."
    )
    confidence: float = Field(0.95, ge=0.5, le=0.9999, description="Coverage of the intervals.")
    minority_share: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Preference groups with less than this share of the training prompts are the minority.",
    )
    matrix: bool | Literal["auto"] = Field(
        "auto",
        description="Score completions for each preference group by the rewards of others too. `auto`: by "
        "rewards that depend on it and cost nothing, for at most 32 groups and 25000 scores; `true`: all "
        "completions, by judges and code too.",
    )
    judge: PairJudge | None = Field(
        None, description="A language model that compares both models' completions. Null: none."
    )
    lm_eval: LmEvalSection | None = Field(
        None, description="General tasks for both models, to check that other abilities are kept. Null: none."
    )

    def violations(self) -> Iterator[Violation]:
        """A judge compares no more completions than are sampled."""
        if self.judge is not None and self.judge.pairs > self.num_completions:
            rule = (
                f"must not be greater than eval.num_completions ({self.num_completions}); "
                "lower this one or raise that one"
            )
            yield Violation(("judge", "pairs"), self.judge.pairs, rule)

    @property
    def conversation_temperature(self) -> float:
        """That of answers to a person: evaluations' own, at most `CONVERSATION_TEMPERATURE`."""
        return min(self.temperature, CONVERSATION_TEMPERATURE)
