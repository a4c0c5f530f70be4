"""Prepared data in numbers for a person to read: sizes, lengths, reasons."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .records import PreparedPrompt, PromptRecord, RejectedRow

MAX_BARS = 10


@dataclass(frozen=True)
class GroupCounts:
    """One preference group. `share` is its part of the training prompts; lengths are prompts' in tokens.

    `users` is None where no record says whose it is. 95 % of its prompts have at most `tokens_p95` tokens.
    """

    preference_group: str
    train_prompts: int
    share: float
    eval_prompts: int
    users: int | None
    tokens_mean: float
    tokens_p95: int
    tokens_max: int


@dataclass(frozen=True)
class Bar:
    """`count` prompts have at least `low` and fewer than `high` tokens."""

    low: int
    high: int
    count: int


def count_groups(
    splits: Mapping[str, Sequence[PreparedPrompt]],
    records: Mapping[str, Sequence[PromptRecord]] | None = None,
) -> tuple[GroupCounts, ...]:
    """The preference groups of `train` and `eval`, the largest first. `train` must not be empty."""
    prompts: dict[str, dict[str, list[int]]] = defaultdict(lambda: {"train": [], "eval": []})
    for split, members in splits.items():
        for prompt in members:
            prompts[prompt.preference_group][split].append(len(prompt.input_ids))
    users: dict[str, set[str]] = defaultdict(set)
    for record in (record for members in (records or {}).values() for record in members):
        if record.user_id is not None:
            users[record.assigned].add(record.user_id)
    groups = []
    for name, lengths in prompts.items():
        train, both = len(lengths["train"]), sorted(lengths["train"] + lengths["eval"])
        groups.append(
            GroupCounts(
                name,
                train,
                train / len(splits["train"]),
                len(lengths["eval"]),
                len(users[name]) if name in users else None,
                sum(both) / len(both),
                both[math.ceil(0.95 * len(both)) - 1],
                both[-1],
            )
        )
    return tuple(sorted(groups, key=lambda group: (-group.train_prompts, group.preference_group)))


def count_reasons(rejected: Iterable[RejectedRow]) -> dict[str, int]:
    """Rejected rows by reason, the most frequent first."""
    counts: Counter[str] = Counter()
    for row in rejected:
        counts[row.reason] += row.count
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def length_bars(lengths: Sequence[int]) -> tuple[Bar, ...]:
    """At most ten bars of one round width (1, 2 or 5 times a power of ten) over all lengths, in tokens."""
    if not lengths:
        return ()
    least, most = min(lengths), max(lengths)
    width = next(
        step * 10**power
        for power in range(20)
        for step in (1, 2, 5)
        if most // (step * 10**power) - least // (step * 10**power) < MAX_BARS
    )
    counts = Counter(length // width for length in lengths)
    return tuple(
        Bar(number * width, (number + 1) * width, counts[number])
        for number in range(least // width, most // width + 1)
    )
