"""From scored completions to the numbers that tables and plots show. Pure: no model, no files."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from .estimates import ROUNDING, PromptValues, Resampler, differences_of, prompt_values, shared_prompts
from .fairness import fairness
from .intervals import Bootstrap
from .result_types import Detail, EvalRow, Overall, Summary, Which


def summarise(
    rows: Sequence[EvalRow],
    bootstrap: Bootstrap,
    weights: Mapping[str, float] | None = None,
    *,
    users: Mapping[str, str] | None = None,
    minority_share: float = 0.1,
) -> Summary:
    """Base against tuned in each preference group and over them, on prompts with a reward from both.

    `weights`: how often each preference group occurs, for the weighted mean. Default: its held-out prompts.
    `users`: who asked, by prompt id, where that is known; intervals then resample users.
    """
    base, tuned = shared_prompts(prompt_values(rows, "base"), prompt_values(rows, "tuned"))
    counts = {group: float(len(found)) for group, found in base.items()}
    used = counts if weights is None else {group: float(weights.get(group, 0)) for group in base}
    resampler = Resampler(bootstrap, users or {})
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
        notes=_notes(rows, base, by_group),
    )


def _notes(rows: Sequence[EvalRow], shared: PromptValues, details: Mapping[str, Detail]) -> list[str]:
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
        elif details[group].units == 1:
            notes.append(
                f"{group}: all {len(prompts)} held-out prompts are one user's: no interval, nor for "
                "means that include it. Hold out more users."
            )
    missing = sum(math.isnan(row.reward) for row in rows)
    if missing:
        notes.append(f"{missing} of {len(rows)} completions have no reward (NaN) and are left out.")
    return notes


def details(
    rows: Sequence[EvalRow], base: PromptValues, tuned: PromptValues, resampler: Resampler
) -> dict[str, Detail]:
    """By preference group. `base` and `tuned` are the rewards of the prompts that have one from both."""
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
    """Over the preference groups, each counted once; there is no effect size over unlike scales."""
    kept = [row for row in rows if row.prompt_id in base[row.preference_group]]
    return _detail(kept, base, tuned, resampler).model_copy(update={"effect": math.nan})


def win_values(rows: Sequence[EvalRow]) -> PromptValues:
    """For each prompt the share of pairs (tuned completion, base completion) that the tuned one wins.

    All pairs of one prompt count; a tie counts half. That is P(tuned > base) + P(tie) / 2, which Mann and
    Whitney's U divided by the number of pairs estimates. Completions without a reward are left out.
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


def effect_size(rows: Sequence[EvalRow], gain: float) -> float:
    """Cohen's d: `gain` over the root mean square of both models' standard deviations of rewards.

    The rewards of one preference group. 0 where nothing is gained; NaN where rewards have no spread.
    """
    spreads = []
    for which in ("base", "tuned"):
        found = [row.reward for row in rows if row.which == which and not math.isnan(row.reward)]
        spreads.append(statistics.variance(found) if len(found) > 1 else math.nan)
    scale = math.sqrt(math.fsum(spreads) / 2)
    if abs(gain) <= ROUNDING:
        return 0.0
    return gain / scale if scale > ROUNDING else math.nan


def _win(difference: float) -> float:
    return 0.5 if abs(difference) <= ROUNDING else float(difference > 0)


def _detail(rows: Sequence[EvalRow], base: PromptValues, tuned: PromptValues, resampler: Resampler) -> Detail:
    once: Mapping[str, float] = dict.fromkeys(base, 1.0)
    gains = differences_of(tuned, base)
    improved = {g: {p: float(gain > ROUNDING) for p, gain in found.items()} for g, found in gains.items()}
    names = sorted({name for row in rows for name in row.parts})
    return Detail(
        units=sum(resampler.count(found) for found in base.values()),
        parts={
            name: resampler.contrast(
                prompt_values(rows, "base", name), prompt_values(rows, "tuned", name), once
            )
            for name in names
        },
        win_rate=resampler.share(win_values(rows), once),
        improved=resampler.share(improved, once),
        effect=effect_size(rows, resampler.mean(gains, once).mean),
    )
