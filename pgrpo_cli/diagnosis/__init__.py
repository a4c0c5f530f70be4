"""Why a run does not learn, in plain words: rules over plain data, each with what to change."""

from __future__ import annotations

from . import completions, progress, reward_history, reward_parts, spread
from .finding import Diagnosis, Finding, Rule, Severity, examine
from .progress import reassurances
from .view import MIN_STEPS, WINDOW_STEPS, Completions, Metrics, PastRewards, RunView, TrainingPrompts

__all__ = [
    "MIN_STEPS",
    "RULES",
    "WINDOW_STEPS",
    "Completions",
    "Diagnosis",
    "Finding",
    "Metrics",
    "PastRewards",
    "Rule",
    "RunView",
    "Severity",
    "TrainingPrompts",
    "diagnose",
    "reassurances",
]

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
