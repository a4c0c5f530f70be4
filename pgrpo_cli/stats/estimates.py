"""Estimates with intervals from one number per prompt: means, paired differences, shares, gaps. Pure."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from pgrpo_cli.seeding import derive_seed

from .intervals import (
    Bootstrap,
    Interval,
    combination_interval,
    prompt_means,
    share_interval,
    standard_error,
)
from .result_types import Contrast, Estimate, EvalRow, Verdict, Which

ROUNDING = 1e-12
"""Smaller differences of rewards are float64's, not a model's."""

PromptValues = dict[str, dict[str, float]]
"""preference group -> prompt id -> a number, such as the mean reward over the prompt's completions."""


def prompt_values(rows: Iterable[EvalRow], which: Which, part: str | None = None) -> PromptValues:
    """The mean reward of each prompt, of the base or of the tuned model; a prompt without any is left out.

    `part`: the mean of that part of the reward instead.
    """
    by_group: dict[str, list[EvalRow]] = {}
    for row in rows:
        if row.which == which:
            by_group.setdefault(row.preference_group, []).append(row)

    def value(row: EvalRow) -> float:
        return row.reward if part is None else row.parts.get(part, math.nan)

    return {
        group: prompt_means([value(row) for row in found], [row.prompt_id for row in found])
        for group, found in by_group.items()
    }


def shared_prompts(first: PromptValues, second: PromptValues) -> tuple[PromptValues, PromptValues]:
    """Both, cut down to the prompts that both have. Every preference group of either stays, if only empty."""
    shared = {
        group: sorted(first.get(group, {}).keys() & second.get(group, {}).keys())
        for group in sorted(first.keys() | second.keys())
    }
    return (
        {group: {prompt: first[group][prompt] for prompt in prompts} for group, prompts in shared.items()},
        {group: {prompt: second[group][prompt] for prompt in prompts} for group, prompts in shared.items()},
    )


def differences_of(values: PromptValues, reference: PromptValues) -> PromptValues:
    """`values` minus `reference`, prompt by prompt: what both share, its difficulty, cancels.

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
    """What the interval of a difference allows to say."""
    if difference.ci_low > ROUNDING:
        return "ahead"
    if difference.ci_high < -ROUNDING:
        return "behind"
    if abs(difference.ci_low) <= ROUNDING and abs(difference.ci_high) <= ROUNDING:
        return "no difference"
    return "can't tell"


def win_verdict(win_rate: Estimate) -> Verdict:
    """The same of a win rate, which is no difference at a half."""
    mean, low, high = (value - 0.5 for value in (win_rate.mean, win_rate.ci_low, win_rate.ci_high))
    return verdict(Estimate(mean=mean, ci_low=low, ci_high=high, n=win_rate.n))


@dataclass(frozen=True)
class Resampler:
    """How means get their intervals.

    `users`: who asked, by prompt id, where that is known. Prompts of one user are resampled together; a
    prompt of nobody known is drawn by itself.
    """

    bootstrap: Bootstrap
    users: Mapping[str, str] = field(default_factory=dict)

    def contrast(self, base: PromptValues, tuned: PromptValues, weights: Mapping[str, float]) -> Contrast:
        """Both means and the paired difference, on prompts that both have."""
        base, tuned = shared_prompts(base, tuned)
        return Contrast(
            base=self.mean(base, weights),
            tuned=self.mean(tuned, weights),
            difference=self.mean(differences_of(tuned, base), weights),
        )

    def mean(self, values: PromptValues, weights: Mapping[str, float]) -> Estimate:
        """The weighted mean over the preference groups that have a value and a weight above 0."""
        weights = {group: weight for group, weight in weights.items() if weight > 0 and values.get(group)}
        total = math.fsum(weights.values())
        return self.combination(values, {group: weight / total for group, weight in weights.items()})

    def combination(self, values: PromptValues, coefficients: Mapping[str, float]) -> Estimate:
        """The sum of coefficient times mean over the preference groups, each of which has a value."""
        groups = sorted(coefficients)
        # The draws depend on which preference groups take part and on nothing else: base, tuned and
        # difference of one are resampled alike, and no other preference group's prompts disturb them.
        seeded = replace(self.bootstrap, seed=derive_seed(self.bootstrap.seed, "bootstrap", *groups))
        strata = [[value for _, value in sorted(values[group].items())] for group in groups]
        units = [self.units(sorted(values[group])) for group in groups]
        found = combination_interval(strata, seeded, [coefficients[group] for group in groups], units)
        return _estimate(found, sum(map(len, strata)))

    def share(self, values: PromptValues, weights: Mapping[str, float]) -> Estimate:
        """The weighted mean of numbers in [0, 1]; the interval stays inside.

        Where all are alike resampling shows no spread, although a few prompts prove little: the interval is
        then Wilson's, of as many independent units as the weighted mean is worth.
        """
        kept = {group: weight for group, weight in weights.items() if weight > 0 and values.get(group)}
        found = self.mean(values, kept)
        if math.isnan(found.ci_low) or found.ci_high - found.ci_low > ROUNDING:
            inside = {"ci_low": max(0.0, found.ci_low), "ci_high": min(1.0, found.ci_high)}
            return found if math.isnan(found.ci_low) else found.model_copy(update=inside)
        total = math.fsum(kept.values())
        worth = 1 / math.fsum((w / total) ** 2 / self.count(values[group]) for group, w in kept.items())
        return _estimate(share_interval(found.mean, worth, self.bootstrap.confidence), found.n)

    def standard_error(self, values: Mapping[str, float]) -> float:
        """Of the mean over the prompts of one preference group; NaN with a single unit."""
        return standard_error([value for _, value in sorted(values.items())], self.units(sorted(values)))

    def units(self, prompts: Iterable[str]) -> list[Hashable]:
        """What is resampled, a prompt each: its user, or itself."""
        return [("user", self.users[p]) if p in self.users else ("prompt", p) for p in prompts]

    def count(self, prompts: Iterable[str]) -> int:
        """How many units the prompts are."""
        return len(set(self.units(prompts)))


def _estimate(found: Interval, n: int) -> Estimate:
    return Estimate(mean=found.mean, ci_low=found.low, ci_high=found.high, n=n)
