"""More about each preference group than its mean: parts of the reward, win rates, who improves. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from .estimates import ROUNDING, Estimator, PromptValues, differences_of, prompt_values
from .types import Detail, Row, Which


def details(
    rows: Sequence[Row], base: PromptValues, tuned: PromptValues, estimator: Estimator
) -> dict[str, Detail]:
    """By preference group. `base` and `tuned` are the rewards of the prompts that have one from both."""
    by_group: dict[str, list[Row]] = {group: [] for group in base}
    for row in rows:
        if row.prompt_id in base[row.preference_group]:
            by_group[row.preference_group].append(row)
    return {
        group: _detail(by_group[group], {group: base[group]}, {group: tuned[group]}, estimator)
        for group in base
    }


def macro_detail(
    rows: Sequence[Row], base: PromptValues, tuned: PromptValues, estimator: Estimator
) -> Detail:
    """Over the preference groups, each counted once; there is no effect size over unlike scales."""
    kept = [row for row in rows if row.prompt_id in base[row.preference_group]]
    return _detail(kept, base, tuned, estimator).model_copy(update={"effect": math.nan})


def win_values(rows: Sequence[Row]) -> PromptValues:
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


def effect_size(rows: Sequence[Row], gain: float) -> float:
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


def _detail(rows: Sequence[Row], base: PromptValues, tuned: PromptValues, estimator: Estimator) -> Detail:
    once: Mapping[str, float] = dict.fromkeys(base, 1.0)
    gains = differences_of(tuned, base)
    improved = {g: {p: float(gain > ROUNDING) for p, gain in found.items()} for g, found in gains.items()}
    names = sorted({name for row in rows for name in row.parts})
    return Detail(
        units=sum(estimator.count(found) for found in base.values()),
        parts={
            name: estimator.contrast(
                prompt_values(rows, "base", name), prompt_values(rows, "tuned", name), once
            )
            for name in names
        },
        win_rate=estimator.share(win_values(rows), once),
        improved=estimator.share(improved, once),
        effect=effect_size(rows, estimator.mean(gains, once).mean),
    )
