"""`rewards` with `type: judge`: a language model behind an HTTP interface that scores completions."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .judge import JudgeSection
from .reward_base import RewardBase

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

    type: Literal["judge"] = "judge"
    rubric: str = Field(
        DEFAULT_RUBRIC,
        description="What the judge reads: a Jinja template over " + ", ".join(RUBRIC_VARIABLES) + ". "
        "What it may do stands under Templates in docs/data.md.",
    )
    scale: tuple[float, float] = Field((1, 10), description="Lowest and highest score.")
    raw: bool = Field(False, description="Keep scores as given, instead of mapping the scale to [0, 1].")
