"""Counts of prepared data for a person to read: sizes, lengths, reasons, and what deserves a warning."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .assemble import Assembled
from .records import PreparedPrompt, RejectedRow, text_key

# Under so many prompts a preference group's spread is a guess and every epoch repeats the same few.
FEW_PROMPTS = 16


@dataclass(frozen=True)
class GroupCounts:
    """One preference group. `share` is its part of the training prompts; lengths are prompts' in tokens."""

    preference_group: str
    train_prompts: int
    share: float
    eval_prompts: int
    tokens_mean: float
    tokens_max: int


def count_groups(splits: Mapping[str, Sequence[PreparedPrompt]]) -> tuple[GroupCounts, ...]:
    """The preference groups of `train` and `eval`, the largest first. `train` must not be empty."""
    prompts: dict[str, dict[str, list[int]]] = defaultdict(lambda: {"train": [], "eval": []})
    for split, members in splits.items():
        for prompt in members:
            prompts[prompt.preference_group][split].append(len(prompt.input_ids))
    groups = []
    for name, lengths in prompts.items():
        train, both = len(lengths["train"]), lengths["train"] + lengths["eval"]
        share = train / len(splits["train"])
        groups.append(GroupCounts(name, train, share, len(lengths["eval"]), sum(both) / len(both), max(both)))
    return tuple(sorted(groups, key=lambda group: (-group.train_prompts, group.preference_group)))


def count_reasons(rejected: Iterable[RejectedRow]) -> dict[str, int]:
    """Rejected rows by reason, the most frequent first."""
    counts = Counter(row.reason for row in rejected)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def warnings_about(assembled: Assembled, groups: Sequence[GroupCounts]) -> Iterator[str]:
    """What a user should know before spending GPU hours on data that are legal."""
    for group in groups:
        if group.train_prompts < FEW_PROMPTS:
            yield (
                f"preference group {group.preference_group!r} has only {group.train_prompts} training "
                f"prompts; under {FEW_PROMPTS} the spread of its rewards is a guess"
            )
        if group.eval_prompts == 0:
            yield f"preference group {group.preference_group!r} has no held-out prompt to evaluate it on"
    lost = {row.preference_group for row in assembled.rejected if row.preference_group}
    for name in sorted(lost - {group.preference_group for group in groups}):
        yield f"preference group {name!r} is gone: all its rows were rejected"
    texts = Counter((record.preference_group, text_key(record)) for record in assembled.records["train"])
    if copies := sum(count - 1 for count in texts.values()):
        verb = "repeat" if copies > 1 else "repeats"
        yield f"{copies} of the prompts {verb} the text of another of the same preference group; all count"
