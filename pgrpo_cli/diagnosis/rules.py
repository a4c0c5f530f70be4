"""All rules, and the diagnosis of a run."""

from __future__ import annotations

from . import (
    capture,
    completions,
    estimator_advice,
    personalization,
    progress,
    reward_history,
    reward_parts,
    spread,
)
from .finding import Diagnosis, Rule, examine
from .view import MIN_STEPS, RunView

RULES: tuple[Rule, ...] = (
    *spread.RULES,
    *reward_parts.RULES,
    *completions.RULES,
    *capture.RULES,
    *progress.RULES,
    *reward_history.RULES,
    *estimator_advice.RULES,
    *personalization.RULES,
)


def diagnose(view: RunView) -> Diagnosis:
    """The findings of all rules in a run so far. There are none before `MIN_STEPS`."""
    if view.step < MIN_STEPS:
        why = f"rules need {MIN_STEPS} steps"
        return Diagnosis((), (), {rule.asks: why for rule in RULES})
    return examine(view, RULES)
