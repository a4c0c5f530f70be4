"""Rules about completions that are cut off at the limit, become shorter and shorter, or are all the same."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from .finding import Finding, Rule, about, percent, shown
from .spread import find_no_spread
from .view import RECENT_STEPS, RunView, group_masks

CUT_SHARE = 0.8
"""Share of completions that are cut off. Above it, hardly any completion ends by itself."""
SHORTER = 1 / 3
"""Ratio to the length in the first steps. A change of prompts rarely makes so large a difference."""
LEAST_LENGTH = 8.0
"""Tokens in the first steps. Shorter completions cannot shrink much."""
NEW_SHARE = 0.43
"""Share of new texts among the completions of a prompt after its first. Below it, most samples are
repetitions: of 8 texts at most 4 are distinct, of 2 mostly one.
"""
LEAST_PROMPTS = 8
"""Number of generation groups that are needed to judge diversity."""
LONG_ANSWER = 4.0
"""Tokens. Shorter answers, such as a label or a number, are often equal for good reason."""


def find_cut(view: RunView) -> Iterator[Finding]:
    """Nearly all completions reach `rollout.max_completion_tokens`."""
    share = float(view.metrics.latest("truncated_fraction").mean())
    limit = view.recipe.rollout.max_completion_tokens
    if share < CUT_SHARE:
        return
    no_spread = any(True for _ in find_no_spread(view)) if len(view.completions) else False
    because = " This may be why the rewards have no spread." if no_spread else ""
    yield Finding(
        "cut-at-limit",
        None,
        "warning" if no_spread else "note",
        f"{percent(share)} of the completions in the last {RECENT_STEPS} steps were cut at "
        f"rollout.max_completion_tokens ({limit}). A reward that depends on the end of an answer cannot be "
        f"earned, and the model does not learn to stop. Other rewards are not affected.{because}",
        f"Set rollout.max_completion_tokens={2 * limit}, ask for short answers in the prompt or "
        "model.system_prompt, or reward brevity with a `length` reward.",
        {"share": share, "limit": limit},
    )


def find_shorter(view: RunView) -> Iterator[Finding]:
    """Completions have become much shorter than they were."""
    key = "completion_length_mean"
    before, now = (
        float(np.median(values)) for values in (view.metrics.earliest(key), view.metrics.latest(key))
    )
    if before < LEAST_LENGTH or now > before * SHORTER:
        return
    divided = view.recipe.resolved_loss.aggregation == "sequence_mean"
    constant = ", or loss.aggregation=constant, under which tokens of short answers have no larger weight"
    yield Finding(
        "length-collapse",
        None,
        "warning",
        f"Completions have shrunk from {shown(before)} to {shown(now)} tokens (medians of the first and the "
        f"last {RECENT_STEPS} steps). Unless this is wanted, the reward favours short answers too much.",
        "Read some completions beside their rewards. To stop it: a `length` reward with "
        f"about `min: {math.ceil(before / 2)}` words, loss.beta=0.04{constant if divided else ''}.",
        {"before": before, "now": now},
    )


def find_alike(view: RunView) -> Iterator[Finding]:
    """Most completions of a prompt have the same text."""
    completions, groups = view.completions, view.completions.generation_groups
    recent_P = groups.step_P > view.step - RECENT_STEPS
    lengths_P = np.add.reduceat(completions.length_N, completions.starts_P) / groups.size_P
    usable_P = recent_P & (groups.size_P >= 2) & (lengths_P >= LONG_ANSWER)
    distinct_P = groups.distinct_P / groups.size_P
    new_P = (groups.distinct_P - 1) / np.maximum(groups.size_P - 1, 1)
    findings: list[tuple[float, Finding]] = []
    for name, own_P in group_masks(
        groups.preference_group_P, completions.preference_groups, usable_P, LEAST_PROMPTS
    ):
        share = float(distinct_P[own_P].mean())
        if new_P[own_P].mean() < NEW_SHARE:
            findings.append((share, _alike(view, name, share, int(own_P.sum()))))
    yield from (finding for _, finding in sorted(findings, key=lambda pair: pair[0]))


def _alike(view: RunView, name: str | None, share: float, prompts: int) -> Finding:
    recipe = view.recipe
    before, now = (
        float(np.median(values)) if len(values) else math.nan
        for values in (view.metrics.earliest("entropy"), view.metrics.latest("entropy"))
    )
    fallen = now < before / 2
    entropy = (
        f" The entropy has fallen from {shown(before)} to {shown(now)} nats per token." if fallen else ""
    )
    warmer = max(1.0, recipe.rollout.temperature + 0.2)
    colder = f"train.learning_rate={shown(recipe.train.learning_rate / 3)}, or loss.beta=0.04, and "
    return Finding(
        "diversity-collapse",
        name,
        "warning",
        f"Only {percent(share)} of the completions of a prompt have different texts ({prompts} prompts "
        f"{about(name)}, last {RECENT_STEPS} steps): sampling repeats itself, so there is nothing to "
        f"compare.{entropy}",
        f"Set {colder if fallen else ''}rollout.temperature={warmer:.2g}"
        + (", with rollout.top_p=1 and rollout.top_k=0." if _truncates(view) else "."),
        {"distinct": share, "prompts": prompts},
    )


def _truncates(view: RunView) -> bool:
    return view.recipe.rollout.top_p < 1 or view.recipe.rollout.top_k > 0


def _lacks(key: str) -> str:
    return f"metrics.jsonl does not have `{key}` for {RECENT_STEPS} steps"


def _lacks_cut(view: RunView) -> str | None:
    few = len(view.metrics.latest("truncated_fraction")) < RECENT_STEPS
    return _lacks("truncated_fraction") if few else None


def _lacks_lengths(view: RunView) -> str | None:
    if (view.metrics["completion_length_mean"] >= 0).sum() < 2 * RECENT_STEPS:
        return f"{2 * RECENT_STEPS} steps are needed to compare the first with the last ones"
    few = any(
        len(values) < RECENT_STEPS // 2
        for values in (
            view.metrics.latest("completion_length_mean"),
            view.metrics.earliest("completion_length_mean"),
        )
    )
    return _lacks("completion_length_mean") if few else None


def _lacks_prompts(view: RunView) -> str | None:
    found = int((view.completions.generation_groups.size_P >= 2).sum())
    return None if found >= LEAST_PROMPTS else f"{found} prompts so far, {LEAST_PROMPTS} are needed"


RULES = (
    Rule("cut-at-limit", "Do completions end by themselves?", _lacks_cut, find_cut),
    Rule("length-collapse", "Do completions keep their length?", _lacks_lengths, find_shorter),
    Rule("diversity-collapse", "Do the completions of one prompt differ?", _lacks_prompts, find_alike),
)
