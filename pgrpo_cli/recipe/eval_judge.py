"""`eval.judge`: a language model that is shown the base model's and the tuned model's answer side by side."""

from __future__ import annotations

from pydantic import Field

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

    rubric: str = Field(
        PAIR_RUBRIC,
        description="What the judge reads: a Jinja template over " + ", ".join(PAIR_VARIABLES) + ". "
        "What it may do stands under Templates in docs/data.md.",
    )
    pairs: int = Field(
        1,
        ge=1,
        description="Pairs compared a held-out prompt: the first completions of both models, then the "
        "second ones, and so on.",
    )

    @property
    def label(self) -> str:
        """How messages and counts name it."""
        return "eval.judge"
