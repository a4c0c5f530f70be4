"""Rules and their findings; findings about many preference groups are joined into one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from .view import RunView

Severity = Literal["problem", "warning", "note"]
"""`problem`: the run cannot learn. `warning`: it learns less than it could. `note`: it may be intended."""

SEVERITIES: tuple[Severity, ...] = ("problem", "warning", "note")

MOST_PREFERENCE_GROUPS = 3
"""If a rule has findings about more preference groups than this, they are joined into one: a run may have as
many preference groups as users.
"""
_MOST_NAMES = 5


@dataclass(frozen=True)
class Finding:
    """What is wrong (`says`), in which preference group (None: in the whole run), and what to change
    (`remedy`). `numbers`: the numbers that it is based on. `part`: the parts of the reward that it is about,
    or None.
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
        """Findings with the same key are reported once per run."""
        return self.rule, self.preference_group, self.part

    def as_json(self) -> dict[str, Any]:
        """The finding as JSON values."""
        return {**asdict(self), "numbers": dict(self.numbers)}


@dataclass(frozen=True)
class Rule:
    """A rule that looks for one kind of problem.

    `asks`: the question that it answers. `lacks`: why it cannot answer yet, or None. `find`: yields its
    findings, the worst first. `lacks` and `find` are pure functions of the view.
    """

    name: str
    asks: str
    lacks: Callable[[RunView], str | None]
    find: Callable[[RunView], Iterator[Finding]]


@dataclass(frozen=True)
class Diagnosis:
    """All findings, the most severe first; the questions that were answered, and why others were not."""

    findings: tuple[Finding, ...]
    answered: tuple[str, ...]
    unanswered: Mapping[str, str]


def examine(view: RunView, rules: Iterable[Rule]) -> Diagnosis:
    """Apply every rule."""
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
    """The findings of a rule; a single one about all of them if there are many."""
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
    """A number with three digits, without a minus before zero."""
    return f"{value + 0.0:.3g}"


def percent(share: float) -> str:
    """A share in per cent. Rounding does not make it 100 % or 0 % unless it is exactly 1 or 0."""
    inside = min(max(share, 0.001), 0.999) if 0 < share < 1 else share
    return f"{inside * 100:.3g} %"


def about(preference_group: str | None) -> str:
    """`of preference group 'x'`, or of all of them."""
    return (
        "of all preference groups"
        if preference_group is None
        else f"of preference group {preference_group!r}"
    )
