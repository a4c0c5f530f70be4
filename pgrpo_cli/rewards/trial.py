"""Scoring a few texts to see what a recipe's rewards make of them: every reward by itself, every part."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .base import Completion, LearntReward, Score, WeighsParts
from .reward_sum import RewardSum, Term
from .scoring import Scorer


@dataclass(frozen=True)
class PartTrial:
    """A part as recorded, NaN where it was not; `weight` is its factor in the total, None if unknown."""

    name: str
    value: float
    weight: float | None

    @property
    def weighted(self) -> float | None:
        """What the part adds to the total."""
        return _product(self.weight, self.value)


@dataclass(frozen=True)
class RewardTrial:
    """One reward's value of one completion, NaN for no reward; `value_range` as the reward declares it.

    `details`: what made up the value, in a unit of its own.
    """

    label: str
    value: float
    weight: float
    value_range: tuple[float, float] | None
    parts: tuple[PartTrial, ...]
    details: Mapping[str, float] = field(default_factory=dict)

    @property
    def weighted(self) -> float:
        """What the reward adds to the total."""
        return _product(self.weight, self.value) or 0.0


@dataclass(frozen=True)
class Trial:
    """A completion, its total, and the rewards that apply to its preference group, in the recipe's order."""

    completion: Completion
    total: float
    rewards: tuple[RewardTrial, ...]


def try_rewards(rewards: RewardSum, completions: Sequence[Completion]) -> list[Trial]:
    """Score the completions as a step of a run would. Raises RewardError as it does there."""
    with Scorer(rewards) as scorer:
        scores_by_term = scorer.start().by_term(completions)
    totals = rewards.total(scores_by_term, len(completions))
    return [
        Trial(
            completion,
            totals[index].value,
            tuple(
                _trial(term, completion, scores[index])
                for term, scores in zip(rewards.terms, scores_by_term, strict=True)
                if index in scores
            ),
        )
        for index, completion in enumerate(completions)
    ]


def _trial(term: Term, completion: Completion, score: Score) -> RewardTrial:
    function = term.function
    weights = function.part_weights if isinstance(function, WeighsParts) else None
    parts = tuple(
        PartTrial(
            part, score.parts.get(part, math.nan), None if weights is None else term.weight * weights[part]
        )
        for part in function.parts
    )
    details = function.details(completion) if isinstance(function, LearntReward) else {}
    return RewardTrial(term.label, score.value, term.weight, function.value_range, parts, details)


def _product(weight: float | None, value: float) -> float | None:
    """Weight 0 adds nothing, whatever the value."""
    return None if weight is None else 0.0 if weight == 0 else weight * value
