"""Estimates with intervals from one number per prompt: means, paired differences, shares, gaps."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from pgrpo_cli.seeding import derive_seed

from .intervals import (
    ROUNDING,
    Bootstrap,
    Interval,
    combination_interval,
    prompt_means,
    share_interval,
    standard_error,
)
from .result_types import Contrast, Estimate, EvalRow, Verdict, Which

PromptValues = dict[str, dict[str, float]]
"""preference group -> prompt id -> a number, such as the mean reward over the prompt's completions."""


def prompt_values(rows: Iterable[EvalRow], which: Which, part: str | None = None) -> PromptValues:
    """The mean reward of each prompt for one of the models. A prompt without rewards is left out.

    `part`: use this part of the reward instead.
    """
    by_group: dict[str, list[EvalRow]] = {}
    for row in rows:
        if row.which == which:
            by_group.setdefault(row.preference_group, []).append(row)

    def value(row: EvalRow) -> float:
        return row.reward if part is None else row.parts.get(part, math.nan)

    return {
        group: prompt_means([value(row) for row in own], [row.prompt_id for row in own])
        for group, own in by_group.items()
    }


def shared_prompts(first: PromptValues, second: PromptValues) -> tuple[PromptValues, PromptValues]:
    """Both, restricted to prompts that both have. All preference groups are kept, even without prompts."""
    shared = {
        group: sorted(first.get(group, {}).keys() & second.get(group, {}).keys())
        for group in sorted(first.keys() | second.keys())
    }
    return (
        {group: {prompt: first[group][prompt] for prompt in prompts} for group, prompts in shared.items()},
        {group: {prompt: second[group][prompt] for prompt in prompts} for group, prompts in shared.items()},
    )


def differences_of(values: PromptValues, reference: PromptValues) -> PromptValues:
    """`values` minus `reference`, prompt by prompt. The difficulty of a prompt, which both share, cancels.

    Preference groups and prompts that only one of them has are left out.
    """
    return {
        group: {
            prompt: values[group][prompt] - reference[group][prompt]
            for prompt in sorted(values[group].keys() & reference[group].keys())
        }
        for group in sorted(values.keys() & reference.keys())
    }


def verdict(difference: Estimate) -> Verdict:
    """The verdict that the interval of a difference allows."""
    if difference.ci_low > ROUNDING:
        return "ahead"
    if difference.ci_high < -ROUNDING:
        return "behind"
    if abs(difference.ci_low) <= ROUNDING and abs(difference.ci_high) <= ROUNDING:
        return "no difference"
    return "can't tell"


def unless_equal(difference: Estimate, equal: bool) -> Estimate:
    """A difference that is 0 in all prompts is certain if the completions are `equal`. Else its interval is
    unknown: that no reward differs, such as one that nobody has earned yet, does not prove that none will.
    """
    if not equal and verdict(difference) == "no difference":
        return difference.model_copy(update={"ci_low": math.nan, "ci_high": math.nan})
    spread = difference.ci_high - difference.ci_low > ROUNDING
    certain = equal and abs(difference.mean) <= ROUNDING and not spread
    return difference.model_copy(update={"ci_low": 0.0, "ci_high": 0.0}) if certain else difference


def win_verdict(win_rate: Estimate) -> Verdict:
    """The verdict on a win rate: 0.5 means no difference."""
    mean, low, high = (value - 0.5 for value in (win_rate.mean, win_rate.ci_low, win_rate.ci_high))
    return verdict(Estimate(mean=mean, ci_low=low, ci_high=high, n=win_rate.n))


@dataclass(frozen=True)
class Resampler:
    """Computes means and their intervals.

    `users`: the user of each prompt id, as far as known. The prompts of one user are resampled together. A
    prompt whose user is not known is resampled by itself. `equal`: the preference groups in which the
    completions of both models have the same texts (`unless_equal`).
    """

    bootstrap: Bootstrap
    users: Mapping[str, str] = field(default_factory=dict)
    equal: frozenset[str] = frozenset()

    def contrast(self, base: PromptValues, tuned: PromptValues, weights: Mapping[str, float]) -> Contrast:
        """Both means and the paired difference, over the prompts that both have."""
        base, tuned = shared_prompts(base, tuned)
        return Contrast(
            base=self.mean(base, weights),
            tuned=self.mean(tuned, weights),
            difference=self.gain(differences_of(tuned, base), weights),
        )

    def gain(self, gains: PromptValues, weights: Mapping[str, float]) -> Estimate:
        """The mean of differences between both models."""
        return self.unless_equal(self.mean(gains, weights), [group for group in weights if gains.get(group)])

    def unless_equal(self, gain: Estimate, groups: Iterable[str]) -> Estimate:
        """A difference between both models in these preference groups; unknown if it is 0 by chance."""
        return unless_equal(gain, self.equal.issuperset(groups))

    def mean(self, values: PromptValues, weights: Mapping[str, float]) -> Estimate:
        """The weighted mean over the preference groups with a value and a weight above 0."""
        weights = {group: weight for group, weight in weights.items() if weight > 0 and values.get(group)}
        total = math.fsum(weights.values())
        return self.combination(values, {group: weight / total for group, weight in weights.items()})

    def combination(self, values: PromptValues, coefficients: Mapping[str, float]) -> Estimate:
        """The sum of coefficient times mean over preference groups. Each of them must have a value."""
        groups = sorted(coefficients)
        # The draws depend only on which preference groups take part. So base, tuned and difference of the
        # same ones are resampled with the same draws, and the prompts of other preference groups do not
        # matter.
        seeded = replace(self.bootstrap, seed=derive_seed(self.bootstrap.seed, "bootstrap", *groups))
        strata = [[value for _, value in sorted(values[group].items())] for group in groups]
        units = [self.units(sorted(values[group])) for group in groups]
        interval = combination_interval(strata, seeded, [coefficients[group] for group in groups], units)
        return _estimate(interval, sum(map(len, strata)))

    def share(self, values: PromptValues, weights: Mapping[str, float]) -> Estimate:
        """The weighted mean of numbers in [0, 1], with an interval inside [0, 1].

        If all numbers are equal, or the few of a preference group, which may be chance, resampling shows too
        little spread. Then the interval is that of `share_interval`, with the effective number of independent
        units of the weighted mean.
        """
        kept = {group: weight for group, weight in weights.items() if weight > 0 and values.get(group)}
        mean = self.mean(values, kept)
        if not kept or any(self.count(values[group]) == 1 for group in kept):
            return mean
        if mean.ci_high - mean.ci_low > ROUNDING:
            inside = {"ci_low": max(0.0, mean.ci_low), "ci_high": min(1.0, mean.ci_high)}
            return mean.model_copy(update=inside)
        total = math.fsum(kept.values())
        units = 1 / math.fsum((w / total) ** 2 / self.count(values[group]) for group, w in kept.items())
        return _estimate(share_interval(mean.mean, units, self.bootstrap.confidence), mean.n)

    def standard_error(self, values: Mapping[str, float]) -> float:
        """The standard error of the mean over the prompts of one preference group; NaN with a single unit."""
        return standard_error([value for _, value in sorted(values.items())], self.units(sorted(values)))

    def units(self, prompts: Iterable[str]) -> list[Hashable]:
        """The unit of each prompt, which is resampled as a whole: its user, or else the prompt itself."""
        return [("user", self.users[p]) if p in self.users else ("prompt", p) for p in prompts]

    def count(self, prompts: Iterable[str]) -> int:
        """The number of distinct units of the prompts."""
        return len(set(self.units(prompts)))


def _estimate(interval: Interval, n: int) -> Estimate:
    return Estimate(mean=interval.mean, ci_low=interval.low, ci_high=interval.high, n=n)
