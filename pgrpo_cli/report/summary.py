"""From scored completions to the numbers that tables and plots show. Pure: no model, no files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from pgrpo_cli.algo.intervals import Bootstrap, paired_differences, prompt_means, stratified_interval
from pgrpo_cli.seeding import derive_seed

from .types import Contrast, Estimate, Overall, Row, Summary, Verdict, Which

ROUNDING = 1e-12
"""Smaller differences of rewards are float64's, not a model's."""

PromptValues = dict[str, dict[str, float]]
"""preference group -> prompt id -> mean reward over the prompt's completions."""


def summarise(
    rows: Sequence[Row], bootstrap: Bootstrap, weights: Mapping[str, float] | None = None
) -> Summary:
    """Base against tuned in each preference group and over them, on prompts with a reward from both.

    `weights`: how often each preference group occurs, for the weighted mean. Default: its held-out prompts.
    """
    base, tuned = shared_prompts(prompt_values(rows, "base"), prompt_values(rows, "tuned"))
    counts = {group: float(len(found)) for group, found in base.items()}
    used = counts if weights is None else {group: float(weights.get(group, 0)) for group in base}
    return Summary(
        groups={g: _contrast({g: base[g]}, {g: tuned[g]}, {g: 1.0}, bootstrap) for g in base},
        overall=Overall(
            macro=_contrast(base, tuned, dict.fromkeys(base, 1.0), bootstrap),
            weighted=_contrast(base, tuned, used, bootstrap),
        ),
        weights=used,
        notes=_notes(rows, base),
    )


def prompt_values(rows: Iterable[Row], which: Which) -> PromptValues:
    """The mean reward of each prompt, of the base or of the tuned model; a prompt without any is left out."""
    by_group: dict[str, list[Row]] = {}
    for row in rows:
        if row.which == which:
            by_group.setdefault(row.preference_group, []).append(row)
    return {
        group: prompt_means([row.reward for row in found], [row.prompt_id for row in found])
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


def paired_difference(
    values: PromptValues, reference: PromptValues, weights: Mapping[str, float], bootstrap: Bootstrap
) -> Estimate:
    """`values` minus `reference`, prompt by prompt, averaged over preference groups by `weights`."""
    groups = values.keys() & reference.keys()
    differences = {group: paired_differences(values[group], reference[group]) for group in groups}
    return _weighted_mean(differences, weights, bootstrap)


def verdict(difference: Estimate) -> Verdict:
    """What the interval of a difference allows to say."""
    if difference.ci_low > ROUNDING:
        return "ahead"
    if difference.ci_high < -ROUNDING:
        return "behind"
    if abs(difference.ci_low) <= ROUNDING and abs(difference.ci_high) <= ROUNDING:
        return "no difference"
    return "can't tell"


def _contrast(
    base: PromptValues, tuned: PromptValues, weights: Mapping[str, float], bootstrap: Bootstrap
) -> Contrast:
    return Contrast(
        base=_weighted_mean({g: list(found.values()) for g, found in base.items()}, weights, bootstrap),
        tuned=_weighted_mean({g: list(found.values()) for g, found in tuned.items()}, weights, bootstrap),
        difference=paired_difference(tuned, base, weights, bootstrap),
    )


def _weighted_mean(
    values: Mapping[str, Sequence[float]], weights: Mapping[str, float], bootstrap: Bootstrap
) -> Estimate:
    """The weighted mean over the preference groups that have a value; the notes name the others."""
    strata = {group: found for group, found in sorted(values.items()) if found and weights[group] > 0}
    # The draws depend on which preference groups take part and on nothing else: base, tuned and difference of
    # one preference group are resampled alike, and no other preference group's prompts disturb them.
    seeded = replace(bootstrap, seed=derive_seed(bootstrap.seed, "bootstrap", *strata))
    interval = stratified_interval(list(strata.values()), seeded, [weights[group] for group in strata])
    n = sum(len(found) for found in strata.values())
    return Estimate(mean=interval.mean, ci_low=interval.low, ci_high=interval.high, n=n)


def _notes(rows: Sequence[Row], shared: PromptValues) -> list[str]:
    notes = []
    for group, prompts in shared.items():
        if not prompts:
            notes.append(
                f"{group}: no prompt has a reward from both models; the means over groups leave it out."
            )
        elif len(prompts) == 1:
            notes.append(
                f"{group}: a single held-out prompt gives no interval, nor do means that include it. "
                "Hold out more prompts."
            )
    missing = sum(math.isnan(row.reward) for row in rows)
    if missing:
        notes.append(f"{missing} of {len(rows)} completions have no reward (NaN) and are left out.")
    return notes
