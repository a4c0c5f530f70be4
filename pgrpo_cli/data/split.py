"""Holding prompts out for evaluation: no text in both halves, every preference group in the training half.

A training prompt does not begin with a held-out one either: it would hold that question and its answer.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pgrpo_cli.errors import DataError
from pgrpo_cli.seeding import derive_seed

from .records import PromptRecord, RejectedRow, beginnings, leaked, without_held_out


@dataclass(frozen=True)
class Split:
    """Each half in the order given. `dropped`: training prompts whose text, or beginning, is held out."""

    train: tuple[PromptRecord, ...]
    eval: tuple[PromptRecord, ...]
    dropped: tuple[RejectedRow, ...] = ()


class Halves:
    """All records in training at first. `conversations` names that of each: its shortest beginning which is
    a prompt of the data, too.

    What is held out takes its text with it: other records that are that text, or begin with it, leave
    training. No preference group loses its last training record.
    """

    def __init__(self, records: Sequence[PromptRecord]) -> None:
        self.records = records
        starts = [beginnings(record) for record in records]
        self._texts = [texts[-1] for texts in starts]
        known = set(self._texts)
        self.conversations = [next(text for text in texts if text in known) for texts in starts]
        self._with_text: dict[str, list[int]] = defaultdict(list)
        for index, texts in enumerate(starts):
            for text in texts:
                if text in known:
                    self._with_text[text].append(index)
        self._left = Counter(record.assigned for record in records)
        self._gone: set[int] = set()
        self._held_out: set[int] = set()

    def hold_out(self, indices: Iterable[int]) -> bool:
        """Hold these records out, or none of them (False) where a preference group could not train then."""
        chosen = set(indices)
        texts = {self._texts[index] for index in chosen}
        gone = {index for text in texts for index in self._with_text[text]} - self._gone
        lost = Counter(self.records[index].assigned for index in gone)
        if any(self._left[group] <= count for group, count in lost.items()):
            return False
        for group, count in lost.items():
            self._left[group] -= count
        self._gone |= gone
        self._held_out |= chosen
        return True

    def result(self) -> tuple[tuple[PromptRecord, ...], tuple[PromptRecord, ...], tuple[RejectedRow, ...]]:
        """(training, held out, dropped), each in the order given."""
        train, held_out, dropped = [], [], []
        for index, record in enumerate(self.records):
            if index in self._held_out:
                held_out.append(record)
            elif index in self._gone:
                dropped.append(leaked(record))
            else:
                train.append(record)
        return tuple(train), tuple(held_out), tuple(dropped)


def split(records: Sequence[PromptRecord], split_by: str, eval_fraction: float, seed: int) -> Split:
    """Hold out about `eval_fraction` of every preference group, in the order of a seeded hash.

    `text`: of its texts, at least one; a text goes to one half for all preference groups that share it, and
    so do all turns of a conversation. `user`: of its users, at least one, with all their prompts. `time`: of
    its prompts, at least one, the latest of their users. With `user` and `time` a text that is held out
    leaves training wherever it stands, and so does what begins with it.
    No preference group loses its last training prompt: its held-out share may fall short, or exceed.
    Raises DataError where a record lacks the user or the time that it goes by.
    """
    halves = Halves(records)
    if split_by == "time":
        _require(records, "the user and the time", "user_column and data.source.time_column", _has_time)
        _hold_out_latest(halves, eval_fraction, seed)
    elif split_by == "user":
        _require(records, "the user", "user_column", lambda record: record.user_id is not None)
        _hold_out_units(halves, [str(record.user_id) for record in records], eval_fraction, seed)
    else:
        _hold_out_units(halves, halves.conversations, eval_fraction, seed)
    return Split(*halves.result())


def keep_apart(train: Sequence[PromptRecord], held_out: Sequence[PromptRecord]) -> Split:
    """The halves that a source brings, without the training prompts whose text, or beginning, is held out."""
    kept, dropped = without_held_out(train, held_out)
    return Split(tuple(kept), tuple(held_out), tuple(dropped))


def _hold_out_units(halves: Halves, units: Sequence[str], fraction: float, seed: int) -> None:
    """Hold out whole units (conversations, users); `units` names that of each record."""
    members: dict[str, list[int]] = defaultdict(list)
    units_of: dict[str, set[str]] = defaultdict(set)
    groups_of: dict[str, set[str]] = defaultdict(set)
    for index, (record, unit) in enumerate(zip(halves.records, units, strict=True)):
        members[unit].append(index)
        units_of[record.assigned].add(unit)
        groups_of[unit].add(record.assigned)
    rank = {unit: (derive_seed(seed, "split", unit), unit) for unit in members}
    held_out: set[str] = set()
    held_of: Counter[str] = Counter()
    # Small groups choose first: they have the least to choose from.
    for group in sorted(units_of, key=lambda group: (len(units_of[group]), group)):
        quota = max(1, round(fraction * len(units_of[group])))
        for unit in sorted(units_of[group], key=rank.__getitem__):
            if held_of[group] >= quota:
                break
            if unit not in held_out and halves.hold_out(members[unit]):
                held_out.add(unit)
                held_of.update(groups_of[unit])


def _hold_out_latest(halves: Halves, fraction: float, seed: int) -> None:
    """Hold out the latest prompts of users, so many that each preference group gives its share.

    The share is made up over the users of a group, in the order of a seeded hash: with 5 prompts each and a
    tenth to hold out, every other user gives one. A user counts for the group of most of their prompts.
    """
    of_user: dict[str, list[int]] = defaultdict(list)
    for index, record in enumerate(halves.records):
        of_user[str(record.user_id)].append(index)
    users_of: dict[str, list[str]] = defaultdict(list)
    for user, indices in of_user.items():
        counts = Counter(halves.records[index].assigned for index in indices)
        users_of[min(counts, key=lambda group: (-counts[group], group))].append(user)
    for group in sorted(users_of):
        total = sum(len(of_user[user]) for user in users_of[group])
        share = max(1, round(fraction * total)) / total
        due = given = 0.0
        for user in sorted(users_of[group], key=lambda user: (derive_seed(seed, "split", user), user)):
            due += share * len(of_user[user])
            for tail in _tails(halves.records, of_user[user], math.floor(due + 0.5 + 1e-9) - given):
                if halves.hold_out(tail):
                    given += len(tail)
                    break


def _tails(records: Sequence[PromptRecord], indices: Sequence[int], wanted: float) -> Iterator[list[int]]:
    """The latest records of a user, about `wanted`, then fewer. Records of the same time stay together.

    The user's first time is never among them.
    """
    by_time: dict[float, list[int]] = defaultdict(list)
    for index in indices:
        by_time[records[index].time or 0.0].append(index)
    tails: list[list[int]] = []
    tail: list[int] = []
    for time in sorted(by_time, reverse=True)[:-1]:
        longer = [*by_time[time], *tail]
        if abs(len(longer) - wanted) > abs(len(tail) - wanted):
            break
        tail = longer
        tails.append(tail)
    yield from reversed(tails)


def _has_time(record: PromptRecord) -> bool:
    return record.user_id is not None and record.time is not None and math.isfinite(record.time)


def _require(
    records: Sequence[PromptRecord], what: str, settings: str, has: Callable[[PromptRecord], bool]
) -> None:
    lacking = [record for record in records if not has(record)]
    if lacking:
        first = lacking[0]
        where = f"{first.file}:{first.line}" if first.line is not None else first.prompt_id
        raise DataError(
            f"data.split_by needs {what} of every prompt; {len(lacking)} of {len(records)} lack it, "
            f"the first: {where}",
            remedy=f"Set data.source.{settings}, if your source has them, or data.split_by to 'text'.",
        )
