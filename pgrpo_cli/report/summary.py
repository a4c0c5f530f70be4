"""From scored completions to the numbers that tables and plots show. Pure: no model, no files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pgrpo_cli.algo.intervals import Bootstrap

from .details import details, macro_detail
from .estimates import (
    ROUNDING,
    Estimator,
    PromptValues,
    differences_of,
    paired_difference,
    prompt_values,
    shared_prompts,
    verdict,
)
from .fairness import fairness
from .types import Detail, Overall, Row, Summary

__all__ = [
    "ROUNDING",
    "PromptValues",
    "paired_difference",
    "prompt_values",
    "shared_prompts",
    "summarise",
    "verdict",
]


def summarise(
    rows: Sequence[Row],
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
    estimator = Estimator(bootstrap, users or {})
    by_group = details(rows, base, tuned, estimator)
    clustered = any(detail.units < len(base[group]) for group, detail in by_group.items())
    return Summary(
        unit="user" if clustered else "prompt",
        groups={g: estimator.contrast({g: base[g]}, {g: tuned[g]}, {g: 1.0}) for g in base},
        overall=Overall(
            macro=estimator.contrast(base, tuned, dict.fromkeys(base, 1.0)),
            weighted=estimator.contrast(base, tuned, used),
        ),
        details=by_group,
        macro_detail=macro_detail(rows, base, tuned, estimator),
        fairness=fairness(differences_of(tuned, base), by_group, used, minority_share, estimator),
        weights=used,
        notes=_notes(rows, base, by_group),
    )


def _notes(rows: Sequence[Row], shared: PromptValues, details: Mapping[str, Detail]) -> list[str]:
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
