"""Rule about personalization: an evaluation that may have found all preference groups served alike."""

from __future__ import annotations

from collections.abc import Iterator

from .finding import Finding, Rule, percent, shown
from .view import RunView


def find_alike(view: RunView) -> Iterator[Finding]:
    """The latest personalization matrix has an interval of its margin, and that is not above 0."""
    found = view.personalization
    if found is None or not found.ci_low <= 0:
        return
    numbers = {"margin": found.margin, "ci_low": found.ci_low, "ci_high": found.ci_high, "step": found.step}
    says = (
        f"The evaluation after step {found.step} does not show that preference groups are served "
        f"differently: an answer earns {shown(found.margin)} [{shown(found.ci_low)}, {shown(found.ci_high)}] "
        "standard deviations more by its own preference group's reward than by the others'."
    )
    if found.ambiguous_share:
        says += f" {percent(found.ambiguous_share)} of the prompts read the same in another preference group."
        numbers["ambiguous_share"] = found.ambiguous_share
    if found.classifier_accuracy is not None and found.chance is not None:
        says += (
            " From the prompts, a plain classifier names the preference group of "
            f"{percent(found.classifier_accuracy)} of those held out, where chance is "
            f"{percent(found.chance)}."
        )
        numbers |= {"classifier_accuracy": found.classifier_accuracy, "chance": found.chance}
    remedy = (
        "Tell the model who asks: `data.conditioning` of type profiles or examples (docs/data.md). If the "
        "prompts tell it already, train longer (train.steps) or at a higher train.learning_rate."
    )
    yield Finding("served-alike", None, "warning", says, remedy, numbers)


def _lacks_matrix(view: RunView) -> str | None:
    return None if view.personalization is not None else "no evaluation with a personalization matrix yet"


RULES = (
    Rule("served-alike", "Does the model serve preference groups differently?", _lacks_matrix, find_alike),
)
