"""`rewards` with `type: recommendation`: whether a completion names the title that the user liked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from .messages import KeyPath
from .reward_base import RewardBase
from .violation import Violation


class RecommendationReward(RewardBase):
    """Whether the completion names a target title, how early, and whether it keeps to the candidates.

    The value is hit_weight · `hit` + rank_weight · `rank` + candidate_weight · `candidate`. `hit` is 1 where
    a target is among the first `k` titles named, `rank` is 1 / its place among them, `candidate` is 1 where
    any title of the candidates and targets is named: a first step for a model that names none yet.

    Titles are compared without case, accents, punctuation and article: `Matrix, The (1999)` is `the matrix`.
    A year beside a title must be the right one. Where titles overlap, the longest of the candidates and
    targets counts. A title of one word counts in running text only where it is capitalised; one that is a
    number or a word such as It or Her only where it is set apart, by quotes, emphasis, a year in brackets or
    a line of its own, or (the word) capitalised inside a sentence. Without candidates, what is quoted counts
    as a whole, and a target's place is that of its list item, else of its quotation, else of its piece
    between commas, semicolons, lines, `and` and `or`.

    For rows with a column `target` and a list `candidates`:
    `{type: recommendation, candidates_column: candidates, candidate_weight: 0.1}`.
    """

    parts: ClassVar[tuple[str, ...]] = ("hit", "rank", "candidate")
    cheap: ClassVar[bool] = True

    type: Literal["recommendation"] = "recommendation"
    target_column: str = Field(
        "target",
        description="Column with the title to name, or with a list of titles, any of which is accepted.",
    )
    candidates_column: str | None = Field(
        None, description="Column with the list of titles to choose from. Null: the data have none."
    )
    k: int = Field(5, ge=1, description="How many titles of a completion count, starting with the first.")
    ignore_year: bool = Field(False, description="Let a title with another year count too.")
    hit_weight: float = Field(0.7, ge=0, description="Share of the part `hit`.")
    rank_weight: float = Field(0.3, ge=0, description="Share of the part `rank`.")
    candidate_weight: float = Field(
        0.0, ge=0, description="Share of the part `candidate`; needs `candidates_column`."
    )

    def violations(self, path: KeyPath) -> Iterator[Violation]:
        """One of the parts counts, and it is known where candidates are."""
        if self.hit_weight == self.rank_weight == self.candidate_weight == 0:
            rule = "all weights of its parts are 0, so that every reward is 0; raise one of them"
            yield Violation((*path, "hit_weight"), self.hit_weight, rule)
        if self.candidate_weight and self.candidates_column is None:
            rule = "needs candidates_column, the column with the list of titles; set it, or set this to 0"
            yield Violation((*path, "candidate_weight"), self.candidate_weight, rule)
