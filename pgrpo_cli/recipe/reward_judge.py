"""`rewards` with `type: judge`: a language model behind an HTTP interface that scores completions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from .judge import JudgeSection, rubric_violations
from .messages import KeyPath
from .reward_base import RewardBase
from .violation import Violation

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


class JudgeReward(JudgeSection, RewardBase):
    """A score by a language model behind any OpenAI-compatible chat-completions interface (docs/judge.md).

    It is asked while the model samples. A completion that it cannot score gets no reward, never 0; a judge
    that fails too often stops the run, which goes on from there by the same command. Answers are kept on
    disk, so no question is paid for twice. A judge on another machine needs `--allow-host HOST`.
    """

    by_preference_group: ClassVar[bool | None] = None

    type: Literal["judge"] = "judge"
    rubric: str = Field(
        DEFAULT_RUBRIC,
        description="What the judge reads: a Jinja template over " + ", ".join(RUBRIC_VARIABLES) + ". "
        "docs/data.md, Templates, lists what it may contain.",
    )
    scale: tuple[float, float] = Field((1, 10), description="Lowest and highest score.")
    raw: bool = Field(False, description="Keep scores as given, instead of mapping the scale to [0, 1].")

    def violations(self, path: KeyPath) -> Iterator[Violation]:
        """The rubric is a template over what there is, and a scale has two ends."""
        yield from rubric_violations(path, self, self.rubric, RUBRIC_VARIABLES, ("completion",))
        # A scale of one number, which is a mistake of its own, is still there.
        if len(self.scale) == 2 and self.scale[0] >= self.scale[1]:
            low, high = self.scale
            yield Violation((*path, "scale", 0), low, f"must be below the highest score ({high}); swap them")
