"""The weighted sum of a recipe's rewards, with every part recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pgrpo_cli.algo.estimators import LARGEST_REWARD
from pgrpo_cli.errors import RewardError

from .base import (
    AskingReward,
    AsyncRewardFunction,
    Completion,
    LearntReward,
    MeteredReward,
    RewardFunction,
    Score,
)


@dataclass(frozen=True)
class Term:
    """One summand: a reward, its weight, the name it records under, the preference groups it serves."""

    label: str
    weight: float
    preference_groups: frozenset[str] | None
    function: RewardFunction | AsyncRewardFunction

    def applies_to(self, completion: Completion) -> bool:
        return self.preference_groups is None or completion.preference_group in self.preference_groups

    def part_key(self, part: str) -> str:
        """`label` where there is only one part, else `label.part`."""
        return self.label if len(self.function.parts) == 1 else f"{self.label}.{part}"


@dataclass(frozen=True)
class RewardSum:
    """sum of weight · value over the rewards that apply to a completion's preference group.

    A NaN of a reward with nonzero weight makes the total NaN: the completion gives no signal. A part that is
    NaN, or whose reward does not apply, is left out of `parts`. Weight 0 records parts and adds nothing.
    """

    terms: tuple[Term, ...]

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(term.part_key(part) for term in self.terms for part in term.function.parts)

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each term that adds something, by label."""
        return {term.label: term.weight for term in self.terms if term.weight != 0}

    def usage(self) -> dict[str, dict[str, float]]:
        """What the rewards have used since they were built, by label; only those that count it."""
        functions = {term.label: term.function for term in self.terms}
        return {name: dict(f.usage()) for name, f in functions.items() if isinstance(f, MeteredReward)}

    def descriptions(self) -> list[str]:
        """Sentences on what was learnt, of the rewards that are learnt from data."""
        return [sentence for reward in self._learnt() for sentence in reward.description()]

    @property
    def users(self) -> list[str]:
        """Those for whom rewards were learnt."""
        return list(dict.fromkeys(user for reward in self._learnt() for user in reward.users))

    def _learnt(self) -> list[LearntReward]:
        return [term.function for term in self.terms if isinstance(term.function, LearntReward)]

    def complaints(self) -> list[str]:
        """Sentences on what has failed, of the rewards that ask somebody else."""
        return [sentence for reward in self._asking() for sentence in reward.complaints()]

    def refuse_silence(self) -> None:
        """Raises RewardError where a reward that asks somebody else has had nothing back."""
        for reward in self._asking():
            reward.refuse_silence()

    def _asking(self) -> list[AskingReward]:
        return [term.function for term in self.terms if isinstance(term.function, AskingReward)]

    def total(self, scores_by_term: Sequence[Mapping[int, Score]], count: int) -> list[Score]:
        """The sum for `count` completions from each term's scores by the index of the completion.

        Raises RewardError for one that is too large.
        """
        totals = [0.0] * count
        parts: list[dict[str, float]] = [{} for _ in range(count)]
        terms: list[dict[str, float]] = [{} for _ in range(count)]
        for term, scores in zip(self.terms, scores_by_term, strict=True):
            for index, score in scores.items():
                if term.weight != 0:
                    totals[index] += term.weight * score.value
                    terms[index][term.label] = score.value
                parts[index].update({term.part_key(part): value for part, value in score.parts.items()})
        for total, summands in zip(totals, terms, strict=True):
            if abs(total) > LARGEST_REWARD:
                of = ", ".join(f"{label} {value:g}" for label, value in summands.items())
                raise RewardError(
                    f"the weighted sum of the rewards is {total:g}, which is too large (rewards: {of})",
                    remedy=f"Lower weights or rewards; it may be {LARGEST_REWARD:g}, since squares are "
                    "summed.",
                )
        return [Score(*found) for found in zip(totals, parts, terms, strict=True)]


def sentences_about(rewards: RewardSum) -> list[str]:
    """What rewards have learnt and used, and what has failed of what they asked."""
    return [*rewards.descriptions(), *usage_sentences(rewards.usage()), *rewards.complaints()]


def usage_sentences(usage: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A sentence a reward that counts what it uses and has used anything, from its counts by name."""
    return [
        f"{label}: {', '.join(_worded(counts))}" for label, counts in usage.items() if any(counts.values())
    ]


def _worded(counts: Mapping[str, float]) -> list[str]:
    return [
        f"{name.replace('_', ' ')} {count:,.4f}"
        if isinstance(count, float)
        else f"{name.replace('_', ' ')} {count:,}"
        for name, count in counts.items()
    ]
