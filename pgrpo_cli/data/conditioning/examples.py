"""Earlier rated answers as turns before a question: what a person likes is told by what they liked."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import inf

from pgrpo_cli.data.preference_groups.base import require_columns
from pgrpo_cli.data.records import Message, PromptRecord, text_key
from pgrpo_cli.data.row_problem import shown
from pgrpo_cli.errors import DataError
from pgrpo_cli.recipe.conditioning import ExamplesConditioning
from pgrpo_cli.rewards.base import rating_in
from pgrpo_cli.seeding import derive_seed

LIKED = "I liked that answer."
DISLIKED = "I did not like that answer."
SHORTEST_QUOTE = 20
"""Characters of an answer that no question of an example may hold. A shorter one is there by chance."""
MAX_LOOKED_AT = 64
"""Rows that are drawn for one question: more than it needs, since some have its own text or answer."""


@dataclass(frozen=True)
class Example:
    """A rated answer to a question. `key`: the text of its row; `time`: infinite where it is not known."""

    key: str
    question: str
    answer: str
    liked: bool
    time: float
    prompt_id: str

    def suits(self, key: str, answer: str | None) -> bool:
        """Whether it may stand before a row of that text and answer: it tells neither of them."""
        if key == self.key or answer == self.answer or _one_conversation(key, self.key):
            return False
        return answer is None or len(answer) < SHORTEST_QUOTE or answer not in self.question


def _one_conversation(one: str, other: str) -> bool:
    """Whether one text is an earlier turn of the other: a later turn repeats the answer to it."""
    return one.startswith(f"{other} assistant ") or other.startswith(f"{one} assistant ")


class Pool:
    """The examples of one user or preference group, by time."""

    def __init__(self, examples: Sequence[Example]) -> None:
        ordered = sorted(examples, key=lambda example: (example.time, example.prompt_id))
        self._of_kind = {
            liked: [example for example in ordered if example.liked == liked] for liked in (True, False)
        }
        self._times = {kind: [example.time for example in found] for kind, found in self._of_kind.items()}

    def drawn(self, record: PromptRecord, answer: str | None, count: int, seed: int) -> list[Example]:
        """Examples for a record, at most `count`: such as suit it, and none of its time or later.

        Half are disliked ones, as far as there are so many of each. In the order of time, but a liked one
        last; empty where none is liked.
        """
        rng = random.Random(derive_seed(seed, "examples", record.prompt_id))
        key = text_key(record)
        liked, disliked = (
            list(
                islice(
                    (
                        example
                        for example in self._in_random_order(kind, record.time, rng)
                        if example.suits(key, answer)
                    ),
                    count,
                )
            )
            for kind in (True, False)
        )
        if not liked:
            return []
        liked = liked[: max(count - len(disliked), count - count // 2)]
        *before, last = sorted(liked, key=lambda example: example.time)
        before += disliked[: count - len(liked)]
        rng.shuffle(before)
        return [*sorted(before, key=lambda example: example.time), last]

    def _in_random_order(self, liked: bool, before: float | None, rng: random.Random) -> Iterator[Example]:
        found = self._of_kind[liked]
        size = len(found) if before is None else bisect_left(self._times[liked], before)
        for index in rng.sample(range(size), min(size, MAX_LOOKED_AT)):
            yield found[index]


def with_examples(
    section: ExamplesConditioning, halves: Mapping[str, Sequence[PromptRecord]], seed: int
) -> tuple[dict[str, tuple[PromptRecord, ...]], int]:
    """The records of each half (`train`, `eval`) with turns before their own; and how many have got none.

    Raises DataError if there is no example at all, or if a rating is not a number.
    """
    records = [record for half in halves.values() for record in half]
    _require(section, records)
    pools = _pools(section, halves)
    without = 0

    def with_turns(record: PromptRecord) -> PromptRecord:
        nonlocal without
        pool = pools.get(_owner(section, record))
        chosen = [] if pool is None else pool.drawn(record, _answer(section, record), section.count, seed)
        without += not chosen
        return replace(record, messages=_with_turns(record.messages, chosen))

    return {half: tuple(map(with_turns, members)) for half, members in halves.items()}, without


def _require(section: ExamplesConditioning, records: Sequence[PromptRecord]) -> None:
    for key in ("answer_column", "rating_column"):
        name = getattr(section, key)
        if name is not None:
            require_columns(records, [name], f"data.conditioning.{key}")
    if section.by == "user" and records and all(record.user_id is None for record in records):
        raise DataError(
            "data.conditioning of type 'examples' goes by users, and no row says whose it is",
            remedy="Set data.source.user_column to the column with the user's id, or data.conditioning.by to "
            "preference_group.",
        )


def _pools(
    section: ExamplesConditioning, halves: Mapping[str, Sequence[PromptRecord]]
) -> dict[str | None, Pool]:
    """Examples of each user or group from training, or from what is held out where it has nothing else."""
    found: dict[str | None, list[Example]] = defaultdict(list)
    trained = {_owner(section, record) for record in halves["train"]}
    for half in ("train", "eval"):
        for record in halves[half]:
            owner = _owner(section, record)
            # What is held out of somebody who has training rows must not stand in these rows' prompts.
            if owner is None or (half == "eval" and owner in trained):
                continue
            if example := _example(section, record):
                found[owner].append(example)
    if halves["train"] and not found:
        raise DataError(
            f"no row has a rated answer in column {section.answer_column!r}, which "
            "data.conditioning.answer_column names",
            remedy="Name the columns with the answer and its rating.",
        )
    return {owner: Pool(examples) for owner, examples in found.items()}


def _owner(section: ExamplesConditioning, record: PromptRecord) -> str | None:
    return record.user_id if section.by == "user" else record.preference_group


def _example(section: ExamplesConditioning, record: PromptRecord) -> Example | None:
    """The row as an example; None where it has no answer, no question or no opinion."""
    answer, last = _answer(section, record), record.messages[-1]
    goodness = _goodness(section, record)
    if answer is None or last["role"] != "user" or not goodness:
        return None
    time = inf if record.time is None else record.time
    return Example(text_key(record), last["content"], answer, goodness > 0, time, record.prompt_id)


def _answer(section: ExamplesConditioning, record: PromptRecord) -> str | None:
    answer = record.values.get(section.answer_column)
    return answer.strip() if isinstance(answer, str) and answer.strip() else None


def _goodness(section: ExamplesConditioning, record: PromptRecord) -> float:
    """How far the rating lies above the middle of the scale; 0 where the row has none. Raises DataError."""
    if section.rating_column is None:
        return 1.0
    value = record.values.get(section.rating_column)
    if value is None:
        return 0.0
    low, high = section.rating_min, section.rating_max
    number = rating_in(value)
    if number is None or not low <= number <= high:
        where = f"{record.file}:{record.line}" if record.line is not None else record.prompt_id
        raise DataError(
            f"{where}: column {section.rating_column!r} is {shown(value)}, no rating from {low:.12g} to "
            f"{high:.12g} (data.conditioning.rating_min, rating_max)",
            remedy="Correct the row, or set rating_min and rating_max to the scale of the ratings.",
        )
    return number - (low + high) / 2


def _with_turns(messages: tuple[Message, ...], examples: Sequence[Example]) -> tuple[Message, ...]:
    first = messages[0]["role"] == "system"
    turns: list[Message] = []
    said = ""
    for example in examples:
        turns.append({"role": "user", "content": f"{said}{example.question}"})
        turns.append({"role": "assistant", "content": example.answer})
        said = f"{LIKED if example.liked else DISLIKED}\n\n"
    # What is said of the last one would stand before the question, which is asked without it elsewhere.
    return (*messages[:first], *turns, *messages[first:])
