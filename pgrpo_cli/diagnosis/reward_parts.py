"""Rules about parts of the reward: one that never varies, and two that work against each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from pgrpo_cli.recipe.reward_base import RewardBase

from .finding import Finding, Rule, shown
from .spread import LEAST_REWARDS, find_no_spread
from .view import Completions, Floats, RunView, Whole

LEAST_PAIRS = 64
"""How many completions a correlation needs: for one of -0.6 the 95 % interval then ends below -0.4."""
FIGHT = -0.6
"""Correlation of two weighted parts within prompts. If both have the same spread, that of their sum is then
only sqrt(1 - 0.6) = 0.63 times as large as for independent parts.
"""
_SAME = 1e-9


def section_of(rewards: Sequence[RewardBase], part: str) -> tuple[int, RewardBase] | None:
    """The index and section of the reward that a part belongs to. Parts are named `label` or `label.part`."""
    label = part.split(".")[0]
    return next(((i, reward) for i, reward in enumerate(rewards) if reward.label == label), None)


def _counting_parts(view: RunView) -> dict[str, tuple[int, float, Floats]]:
    """The parts that enter the sum: index of the reward, its weight, and the column."""
    counting, recorded = {}, view.completions.parts
    for part, values_N in recorded.items():
        section = section_of(view.recipe.rewards, part)
        if section is None or section[1].weight == 0:
            continue
        reward, name = section[1], part.partition(".")[2]
        # What is recorded beside the value does not count. Other parts may have weights of their own.
        beside = f"{reward.label}.value" in recorded and name != "value"
        if not beside and getattr(reward, f"{name}_weight", 1) != 0:
            counting[part] = (section[0], reward.weight, values_N)
    return counting


def _lacks_parts(view: RunView) -> str | None:
    if len(view.completions.parts) < 2:
        return "the reward has one part"
    scored = int(view.completions.scored_N.sum())
    return None if scored >= LEAST_REWARDS else f"{scored} rewards so far, {LEAST_REWARDS} are needed"


def find_constant_parts(view: RunView) -> Iterator[Finding]:
    """Parts with the same value in all completions, while the whole reward varies."""
    if any(finding.preference_group is None for finding in find_no_spread(view)):
        return
    for part, (index, _, values_N) in _counting_parts(view).items():
        values = values_N[~np.isnan(values_N)]
        if len(values) < LEAST_REWARDS or np.ptp(values) > _SAME * max(1.0, abs(float(values[0]))):
            continue
        value = float(values[0])
        if value == 0:
            remedy = (
                "If it is too hard: let it reward partly good answers (regex: `count: true`; keyword: `need: "
                "share`; length: a larger `slack`) or ask for it in the prompt. If it is not needed: "
                f"rewards.{index}.weight=0."
            )
        else:
            remedy = (
                "If every answer earns it already: ask for more, or take it out of the sum with "
                f"rewards.{index}.weight=0. If it should vary: check the function."
            )
        yield Finding(
            "constant-part",
            None,
            "note",
            f"The reward part {part!r} is {shown(value)} in all {len(values)} completions of "
            f"{view.completions.steps_text()}: it adds the same to every answer, so nothing is learnt from "
            "it.",
            remedy,
            {"value": value, "completions": len(values)},
            part,
        )


def find_fighting_parts(view: RunView) -> Iterator[Finding]:
    """Pairs of parts with a strong negative correlation among the answers to one prompt."""
    parts = _counting_parts(view)
    findings: list[tuple[float, Finding]] = []
    for (a, (i, w_a, x_N)), (b, (j, w_b, y_N)) in combinations(parts.items(), 2):
        r, n = _within_prompts(view.completions, w_a * x_N, w_b * y_N)
        if n < LEAST_PAIRS or not r <= FIGHT:
            continue
        weaker = i if abs(w_a) <= abs(w_b) else j
        findings.append((r, _fight(view, a, b, r, n, (i, j, weaker))))
    yield from (finding for _, finding in sorted(findings, key=lambda pair: pair[0]))


def _fight(view: RunView, a: str, b: str, r: float, n: int, places: tuple[int, int, int]) -> Finding:
    i, j, weaker = places
    halved = view.recipe.rewards[weaker].weight / 2
    if i == j:
        remedy = "Make them compatible, or give one of them less weight inside its reward."
    else:
        remedy = (
            f"Decide which one matters more and lower the other, e.g. rewards.{weaker}.weight={halved:g}; "
        )
        remedy += "or keep each to the preference groups that want it (`preference_groups`)."
    return Finding(
        "fighting-parts",
        None,
        "warning",
        f"The reward parts {a!r} and {b!r} work against each other: among the answers to one prompt, one is "
        f"low where the other is high (correlation {r:.2f} over {n} completions of "
        f"{view.completions.steps_text()}). They cancel in the sum, and little of either is learnt.",
        remedy,
        {"correlation": r, "completions": n},
        f"{a}, {b}",
    )


def _within_prompts(completions: Completions, x_N: Floats, y_N: Floats) -> tuple[float, int]:
    """The correlation of two columns around the means of their generation groups, over the completions that
    have both values, and the number of these. NaN if one of the columns does not vary.
    """
    both_N = ~np.isnan(x_N) & ~np.isnan(y_N)
    starts_N = np.zeros(len(completions), np.int64)
    starts_N[completions.starts_P] = 1
    prompt = np.cumsum(starts_N)[both_N]
    x, y = (_centred(values[both_N], prompt) for values in (x_N, y_N))
    # Differences as small as rounding errors are not variation.
    least = _SAME * max(
        1.0, float(np.abs(x_N[both_N]).max(initial=0)), float(np.abs(y_N[both_N]).max(initial=0))
    )
    norm_x, norm_y = float(np.linalg.norm(x)), float(np.linalg.norm(y))
    if min(norm_x, norm_y) <= least * max(1, len(x)) ** 0.5:
        return float("nan"), len(x)
    return float(x @ y / (norm_x * norm_y)), len(x)


def _centred(values: Floats, prompt: Whole) -> Floats:
    means = np.bincount(prompt, weights=values) / np.maximum(np.bincount(prompt), 1)
    return np.asarray(values - means[prompt], np.float64)


def _lacks_pairs(view: RunView) -> str | None:
    if len(view.completions.parts) < 2:
        return "the reward has one part"
    scored = int(view.completions.scored_N.sum())
    return None if scored >= LEAST_PAIRS else f"{scored} rewards so far, {LEAST_PAIRS} are needed"


RULES = (
    Rule("constant-part", "Does every part of the reward vary?", _lacks_parts, find_constant_parts),
    Rule("fighting-parts", "Do the parts of the reward agree?", _lacks_pairs, find_fighting_parts),
)
