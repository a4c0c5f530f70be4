"""All rules, and what they find in a run."""

from __future__ import annotations

from . import completions, progress, reward_history, reward_parts, spread
from .finding import Diagnosis, Rule, examine
from .view import MIN_STEPS, RunView

RULES: tuple[Rule, ...] = (
    *spread.RULES,
    *reward_parts.RULES,
    *completions.RULES,
    *progress.RULES,
    *reward_history.RULES,
)


def diagnose(view: RunView) -> Diagnosis:
    """All that the rules find in a run so far; nothing before `MIN_STEPS`."""
    if view.step < MIN_STEPS:
        why = f"nothing is said before step {MIN_STEPS}"
        return Diagnosis((), (), {rule.asks: why for rule in RULES})
    return examine(view, RULES)
