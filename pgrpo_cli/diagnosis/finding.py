"""What a rule says, what a rule is, and how findings about many preference groups become one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from .view import RunView

Severity = Literal["problem", "warning", "note"]
"""`problem`: nothing can be learnt so. `warning`: learning suffers. `note`: good to know, perhaps meant."""

SEVERITIES: tuple[Severity, ...] = ("problem", "warning", "note")

MOST_PREFERENCE_GROUPS = 3
"""With more than these a rule speaks of all in one finding: a run may have a preference group a user."""
_MOST_NAMES = 5


@dataclass(frozen=True)
class Finding:
    """What is wrong, in which preference group (None: in the run), and what to change; `numbers` are behind
    it. `part` names the parts of the reward that it is about, if any.
    """

    rule: str
    preference_group: str | None
    severity: Severity
    says: str
    remedy: str
    numbers: Mapping[str, float]
    part: str | None = None

    @property
    def key(self) -> tuple[str, str | None, str | None]:
        """What is said once a run."""
        return self.rule, self.preference_group, self.part

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {**asdict(self), "numbers": dict(self.numbers)}


@dataclass(frozen=True)
class Rule:
    """An illness. `asks` is the question that it answers; `lacks` says what keeps it from answering yet, or
    None; `find` yields its findings, the worst first. Both are pure functions of the view.
    """

    name: str
    asks: str
    lacks: Callable[[RunView], str | None]
    find: Callable[[RunView], Iterator[Finding]]


@dataclass(frozen=True)
class Diagnosis:
    """All findings, the gravest first; the questions that were answered, and why the others were not."""

    findings: tuple[Finding, ...]
    answered: tuple[str, ...]
    unanswered: Mapping[str, str]


def examine(view: RunView, rules: Iterable[Rule]) -> Diagnosis:
    """Ask every rule."""
    findings: list[Finding] = []
    answered: list[str] = []
    unanswered: dict[str, str] = {}
    for rule in rules:
        if reason := rule.lacks(view):
            unanswered[rule.asks] = reason
        else:
            answered.append(rule.asks)
            findings += _in_few_words(list(rule.find(view)))
    ordered = sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
    return Diagnosis(tuple(ordered), tuple(answered), unanswered)


def _in_few_words(findings: Sequence[Finding]) -> Sequence[Finding]:
    """A rule's findings, or one about all of them where they are many."""
    names = [finding.preference_group for finding in findings if finding.preference_group is not None]
    if len(names) <= MOST_PREFERENCE_GROUPS:
        return findings
    worst = next(finding for finding in findings if finding.preference_group is not None)
    others = [finding for finding in findings if finding.preference_group is None]
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    listed = ", ".join(repr(name) for name in names[:_MOST_NAMES])
    return [
        *others,
        Finding(
            worst.rule,
            None,
            min((finding.severity for finding in findings), key=SEVERITIES.index),
            f"{len(names)} preference groups are in this state ({listed}{more}). The first: {worst.says}",
            worst.remedy,
            {**worst.numbers, "preference_groups": len(names)},
        ),
    ]


def shown(value: float) -> str:
    """A number for reading: three digits, and no minus before a zero."""
    return f"{value + 0.0:.3g}"


def percent(share: float) -> str:
    """A share in per cent. Only a whole is 100 %, only nothing is 0 %."""
    inside = min(max(share, 0.001), 0.999) if 0 < share < 1 else share
    return f"{inside * 100:.3g} %"


def about(preference_group: str | None) -> str:
    """`of preference group 'x'`, or of all of them."""
    return (
        "of all preference groups"
        if preference_group is None
        else f"of preference group {preference_group!r}"
    )
