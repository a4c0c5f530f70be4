"""Whether a completion recommends what the user is known to like."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pgrpo_cli.errors import RewardError
from pgrpo_cli.recipe.reward_text import RecommendationReward

from .base import BuildContext, Completion, RowCheck, Score, shown, texts_in, where
from .mentions import find_mentions, outside_quotations, place
from .titles import MAX_LENGTH, Title, read_title


@dataclass(frozen=True)
class RecommendationFunction:
    """The reward of a `RecommendationReward` section; what counts as naming a title is said there."""

    section: RecommendationReward

    @property
    def parts(self) -> tuple[str, ...]:
        return self.section.parts

    @property
    def part_weights(self) -> dict[str, float]:
        weights = (self.section.hit_weight, self.section.rank_weight, self.section.candidate_weight)
        return dict(zip(self.parts, weights, strict=True))

    @property
    def value_range(self) -> tuple[float, float]:
        return (0.0, sum(self.part_weights.values()))

    def __call__(self, completions: Sequence[Completion]) -> list[Score]:
        return [self.score(completion) for completion in completions]

    def score(self, completion: Completion) -> Score:
        """What one completion is worth."""
        section = self.section
        targets = self._titles(completion, section.target_column, "target_column")
        if section.candidates_column is None:
            first, candidate = self._place_without_candidates(completion.text, targets), math.nan
        else:
            candidates = self._candidates(completion, section.candidates_column)
            first, named = self._place_among(completion.text, targets, candidates)
            candidate = float(named)
        hit = first is not None and first <= section.k
        parts = {"hit": float(hit), "rank": 1 / first if hit and first else 0.0, "candidate": candidate}
        weighted = [weight * parts[part] for part, weight in self.part_weights.items() if weight]
        return Score(math.fsum(weighted), parts)

    def _place_among(
        self, text: str, targets: list[Title], candidates: list[Title]
    ) -> tuple[int | None, bool]:
        """Place, from 1, of the first target among the different titles named, and whether any is named."""
        mentions = find_mentions(text, [*targets, *candidates], ignore_year=self.section.ignore_year)
        named = list(dict.fromkeys(mention.titles for mention in mentions))
        wanted = range(len(targets))
        places = (index for index, titles in enumerate(named, start=1) if titles.intersection(wanted))
        return next(places, None), bool(named)

    def _place_without_candidates(self, text: str, targets: list[Title]) -> int | None:
        mentions = find_mentions(text, targets, ignore_year=self.section.ignore_year)
        mentions = outside_quotations(text, mentions, targets)
        # Mentions are in order, and so are their places.
        return place(text, mentions[0]) if mentions else None

    def _candidates(self, completion: Completion, column: str) -> list[Title]:
        value = completion.columns.get(column)
        if isinstance(value, str):
            # Read as one long title, it would be named only by an answer that lists every candidate.
            raise RewardError(
                f"reward {self.section.label!r}: column {column!r} is the text {shown(value)}, no list of "
                f"titles; {where(completion)}",
                remedy="Write a list into the row; in a CSV file, a cell with a JSON list of texts, such as "
                '["Alien (1979)", "Heat (1995)"], is one.',
            )
        return self._titles(completion, column, "candidates_column")

    def _titles(self, completion: Completion, column: str, setting: str) -> list[Title]:
        titles = []
        for text in texts_in(completion, column, self.section.label, setting):
            title = read_title(text)
            if title is None:
                raise RewardError(
                    f"reward {self.section.label!r}: {shown(text)} in column {column!r} cannot be looked for "
                    f"in a text: a title has a letter or digit, and at most {MAX_LENGTH} characters; "
                    f"{where(completion)}",
                    remedy="Correct the row or leave it out.",
                )
            titles.append(title)
        return titles


def build_recommendation(section: RecommendationReward, context: BuildContext) -> RecommendationFunction:
    """The factory of `type: recommendation`."""
    return RecommendationFunction(section)


def row_check(section: RecommendationReward) -> RowCheck:
    """Reads the titles."""
    return RecommendationFunction(section).score
