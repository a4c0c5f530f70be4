"""From scored completions to the numbers in tables and plots."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from .estimates import (
    ROUNDING,
    PromptValues,
    Resampler,
    differences_of,
    prompt_values,
    shared_prompts,
)
from .fairness import fairness
from .intervals import Bootstrap, chance_alike
from .result_types import Detail, EvalRow, Overall, Summary, Which

_MOST_NAMES = 8


def summarise(
    rows: Sequence[EvalRow],
    bootstrap: Bootstrap,
    weights: Mapping[str, float] | None = None,
    *,
    users: Mapping[str, str] | None = None,
    minority_share: float = 0.1,
) -> Summary:
    """Compare base and tuned model in each preference group and over all, on prompts with rewards from both.

    `weights`: how often each preference group occurs, for the weighted mean; None: the numbers of held-out
    prompts. `users`: the user of each prompt id, as far as known; intervals then resample users.
    """
    base, tuned = shared_prompts(prompt_values(rows, "base"), prompt_values(rows, "tuned"))
    counts = {group: float(len(prompts)) for group, prompts in base.items()}
    used = (
        counts if weights is None else {group: float(weights.get(group, 0)) for group in {**base, **weights}}
    )
    resampler = Resampler(bootstrap, users or {}, equal_groups(rows))
    by_group = details(rows, base, tuned, resampler)
    clustered = any(detail.units < len(base[group]) for group, detail in by_group.items())
    return Summary(
        unit="user" if clustered else "prompt",
        groups={g: resampler.contrast({g: base[g]}, {g: tuned[g]}, {g: 1.0}) for g in base},
        overall=Overall(
            macro=resampler.contrast(base, tuned, dict.fromkeys(base, 1.0)),
            weighted=resampler.contrast(base, tuned, used),
        ),
        details=by_group,
        macro_detail=macro_detail(rows, base, tuned, resampler),
        fairness=fairness(differences_of(tuned, base), by_group, used, minority_share, resampler),
        weights=used,
        notes=_notes(
            rows, base, by_group, _few_alike(differences_of(tuned, base), by_group, bootstrap), used
        ),
    )


def _few_alike(gains: PromptValues, details: Mapping[str, Detail], bootstrap: Bootstrap) -> list[str]:
    """The preference groups whose prompts all gain alike, which may be chance."""
    return [
        group
        for group, own in gains.items()
        if details[group].units > 1
        and max(own.values()) - min(own.values()) <= ROUNDING
        and chance_alike([details[group].units], [True], [1.0]) > 1 - bootstrap.confidence
    ]


def _named(groups: Sequence[str]) -> str:
    return ", ".join(groups) if len(groups) <= _MOST_NAMES else f"{len(groups)} preference groups"


def _notes(
    rows: Sequence[EvalRow],
    shared: PromptValues,
    details: Mapping[str, Detail],
    few_alike: Sequence[str],
    weights: Mapping[str, float],
) -> list[str]:
    notes = []
    absent = sorted(group for group, weight in weights.items() if weight > 0 and group not in shared)
    if absent:
        share = math.fsum(weights[group] for group in absent) / math.fsum(weights.values())
        notes.append(
            f"Without held-out prompts, so not evaluated: {_named(absent)} ({share * 100:.3g} % of the "
            "training prompts)."
        )
    for group, prompts in shared.items():
        if not prompts:
            notes.append(
                f"{group}: no prompt has a reward from both models, so it is not in the means over groups."
            )
        elif len(prompts) == 1:
            notes.append(
                f"{group}: a single held-out prompt gives no interval, and neither do means that include it. "
                "Hold out more prompts."
            )
        elif details[group].units == 1:
            notes.append(
                f"{group}: all {len(prompts)} held-out prompts are from one user, which gives no interval, "
                "and neither do means that include it. Hold out more users."
            )
    unknown = [g for g, prompts in shared.items() if prompts and math.isnan(details[g].effect.mean)]
    if few_alike:
        notes.append(
            f"Held-out prompts of {_named(few_alike)} all gain alike, and are so few that this may be "
            "chance: means over preference groups may have no interval. Hold out more prompts."
        )
    if unknown:
        notes.append(
            f"Rewards of {_named(unknown)} are all equal before training, so gains in standard deviations of "
            "these rewards, their mean over groups and Jain's index are unknown."
        )
    missing = sum(math.isnan(row.reward) for row in rows)
    if missing:
        notes.append(f"{missing} of {len(rows)} completions have no reward (NaN) and are left out.")
    return notes


def texts_of(rows: Iterable[EvalRow], which: Which) -> dict[str, list[tuple[str, int, str]]]:
    """Prompt, index and text of each completion of one of the models, by preference group."""
    found: dict[str, list[tuple[str, int, str]]] = {}
    for row in rows:
        if row.which == which:
            found.setdefault(row.preference_group, []).append((row.prompt_id, row.completion_index, row.text))
    return {group: sorted(own) for group, own in found.items()}


def equal_groups(rows: Sequence[EvalRow]) -> frozenset[str]:
    """The preference groups in which the completions of both models have the same texts."""
    base, tuned = texts_of(rows, "base"), texts_of(rows, "tuned")
    return frozenset(group for group, texts in base.items() if texts == tuned.get(group))


def details(
    rows: Sequence[EvalRow], base: PromptValues, tuned: PromptValues, resampler: Resampler
) -> dict[str, Detail]:
    """Details by preference group. `base`, `tuned`: rewards of the prompts with rewards from both models."""
    by_group: dict[str, list[EvalRow]] = {group: [] for group in base}
    for row in rows:
        if row.prompt_id in base[row.preference_group]:
            by_group[row.preference_group].append(row)
    return {
        group: _detail(by_group[group], {group: base[group]}, {group: tuned[group]}, resampler)
        for group in base
    }


def macro_detail(
    rows: Sequence[EvalRow], base: PromptValues, tuned: PromptValues, resampler: Resampler
) -> Detail:
    """Details over all preference groups, each counted once."""
    kept = [row for row in rows if row.prompt_id in base[row.preference_group]]
    return _detail(kept, base, tuned, resampler)


def win_values(rows: Sequence[EvalRow]) -> PromptValues:
    """For each prompt, the share of pairs (tuned completion, base completion) that the tuned one wins.

    All pairs of a prompt are compared, and a tie counts half. This estimates P(tuned > base) + P(tie) / 2,
    and equals Mann and Whitney's U divided by the number of pairs. Completions without a reward are left out.
    """
    rewards: dict[tuple[str, str], dict[Which, list[float]]] = {}
    for row in rows:
        if not math.isnan(row.reward):
            models = rewards.setdefault((row.preference_group, row.prompt_id), {"base": [], "tuned": []})
            models[row.which].append(row.reward)
    values: PromptValues = {}
    for (group, prompt), models in rewards.items():
        pairs = [_win(ours - theirs) for ours in models["tuned"] for theirs in models["base"]]
        if pairs:
            values.setdefault(group, {})[prompt] = math.fsum(pairs) / len(pairs)
    return values


def base_spreads(rows: Sequence[EvalRow]) -> dict[str, float]:
    """The sample standard deviation of the base model's rewards in each preference group, over all of its
    completions; 0 if they are all equal but for rounding, or if there is only one.
    """
    rewards: dict[str, list[float]] = {}
    for row in rows:
        if row.which == "base" and not math.isnan(row.reward):
            rewards.setdefault(row.preference_group, []).append(row.reward)
    spreads = {group: statistics.stdev(own) if len(own) > 1 else 0.0 for group, own in rewards.items()}
    return {group: spread if spread > ROUNDING else 0.0 for group, spread in spreads.items()}


def standardised(gains: PromptValues, spreads: Mapping[str, float]) -> PromptValues:
    """Gains in standard deviations of the base model's rewards (Glass's Δ). Empty if a preference group has
    changed whose rewards had no spread: a mean of the others would hide it.
    """
    if without_unit(gains, spreads):
        return {}
    # Where there is no spread nothing has changed, so any unit will do.
    units = {group: spreads.get(group, 0.0) or 1.0 for group in gains}
    return {group: {prompt: g / units[group] for prompt, g in own.items()} for group, own in gains.items()}


def without_unit(gains: PromptValues, spreads: Mapping[str, float]) -> list[str]:
    """The preference groups that have changed, and whose rewards had no spread to count the change in."""
    return [
        group
        for group, own in gains.items()
        if not spreads.get(group, 0.0) > 0 and any(abs(gain) > ROUNDING for gain in own.values())
    ]


def _win(difference: float) -> float:
    return 0.5 if abs(difference) <= ROUNDING else float(difference > 0)


def _detail(rows: Sequence[EvalRow], base: PromptValues, tuned: PromptValues, resampler: Resampler) -> Detail:
    equal_weights: Mapping[str, float] = dict.fromkeys(base, 1.0)
    gains = differences_of(tuned, base)
    improved = {g: {p: float(gain > ROUNDING) for p, gain in own.items()} for g, own in gains.items()}
    names = sorted({name for row in rows for name in row.parts})
    return Detail(
        units=sum(resampler.count(prompts) for prompts in base.values()),
        parts={
            name: resampler.contrast(
                prompt_values(rows, "base", name), prompt_values(rows, "tuned", name), equal_weights
            )
            for name in names
        },
        win_rate=resampler.share(win_values(rows), equal_weights),
        improved=resampler.share(improved, equal_weights),
        effect=resampler.gain(standardised(gains, base_spreads(rows)), equal_weights),
    )
