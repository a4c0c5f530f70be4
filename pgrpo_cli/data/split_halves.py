"""Records on their way from training to evaluation, and what no way of splitting may break."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from .records import PromptRecord, RejectedRow, leaked, text_key


class Halves:
    """All records in training at first. `texts` has the text key of each.

    What is held out takes its text with it: other records of that text leave training. No preference group
    loses its last training record.
    """

    def __init__(self, records: Sequence[PromptRecord]) -> None:
        self.records = records
        self.texts = [text_key(record) for record in records]
        self._of_text: dict[str, list[int]] = defaultdict(list)
        for index, text in enumerate(self.texts):
            self._of_text[text].append(index)
        self._left = Counter(record.preference_group for record in records)
        self._gone: set[int] = set()
        self._held_out: set[int] = set()

    def hold_out(self, indices: Iterable[int]) -> bool:
        """Hold these records out, or none of them (False) where a preference group could not train then."""
        chosen = set(indices)
        texts = {self.texts[index] for index in chosen}
        gone = {index for text in texts for index in self._of_text[text]} - self._gone
        lost = Counter(self.records[index].preference_group for index in gone)
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
