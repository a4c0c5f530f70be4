"""Row numbers of preference group ids, in a fraction of the memory of a dict of strings."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

_NARROW, _WIDE = "I", "Q"
"""Type codes of positions in the text: 4 bytes each, and 8 where the text is too long for that."""


class Ids:
    """Distinct strings, numbered from 0 in the order in which they were added.

    Their UTF-8 stands in one buffer, one after the other, and a table with open addressing finds the row of
    one: an id takes its bytes, 4 for where it ends, and 5 to 8 in the table. Hashes are Python's own, which
    differ from process to process; nothing but the table depends on them.
    """

    def __init__(self) -> None:
        self._text = bytearray()
        # The id of row r is _text[_ends[r] : _ends[r + 1]].
        self._ends = _positions([0])
        # A row number or -1. An id stands in the first slot from its hash on that was free.
        self._slots = _empty_slots(8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __contains__(self, key: str) -> bool:
        return self.rows([key])[0] >= 0

    def __getitem__(self, row: int) -> str:
        return _decoded(self._text[self._ends[row] : self._ends[row + 1]])

    def __iter__(self) -> Iterator[str]:
        return (_decoded(self._text[start:end]) for start, end in pairwise(self._ends))

    @property
    def nbytes(self) -> int:
        """Bytes of the ids and of all that finds them."""
        return len(self._text) + sum(part.itemsize * len(part) for part in (self._ends, self._slots))

    def rows(self, keys: Iterable[str]) -> list[int]:
        """Row number of each key, -1 for one that has none."""
        slots = self._slots
        return [slots[self._slot(_encoded(key))] for key in keys]

    def ensure_rows(self, keys: Iterable[str]) -> list[int]:
        """Row number of each key; keys without a row get one. TypeError, and no change, for a key that is no
        string.
        """
        encoded = [_encoded(key) for key in keys]
        return [self._ensure_row(data) for data in encoded]

    def state(self) -> tuple[Tensor, Tensor]:
        """The UTF-8 of all ids (uint8) and the length of each in bytes (int32)."""
        text = torch.frombuffer(self._text, dtype=torch.uint8).clone() if self._text else _NO_TEXT
        ends = torch.tensor(self._ends.tolist(), dtype=torch.int64)
        return text, ends.diff().int()

    @classmethod
    def of_state(cls, text: Tensor, lengths: Tensor) -> Ids:
        """The ids of which `state` made `text` and `lengths`. ValueError if there are none."""
        if text.dtype != torch.uint8 or lengths.dtype != torch.int32 or text.dim() != 1 or lengths.dim() != 1:
            raise ValueError("ids are no bytes with lengths")
        if (lengths < 0).any() or int(lengths.sum()) != len(text):
            raise ValueError(f"ids of {int(lengths.sum())} bytes stand in {len(text)}")
        ids = cls()
        ids._text = bytearray(len(text))
        if ids._text:
            torch.frombuffer(ids._text, dtype=torch.uint8).copy_(text)
        ids._ends = _positions(list(accumulate(lengths.tolist(), initial=0)))
        repeated = len(ids) - len(set(ids))
        if repeated:
            raise ValueError(f"{repeated} ids stand there twice")
        ids._spread(len(ids) * 3 // 2 + 8)
        return ids

    def _slot(self, data: bytes) -> int:
        """The slot that holds the row of `data`, or the empty one where that belongs."""
        slots, ends, text = self._slots, self._ends, self._text
        slot = hash(data) % len(slots)
        while (row := slots[slot]) >= 0 and text[ends[row] : ends[row + 1]] != data:
            slot = (slot + 1) % len(slots)
        return slot

    def _ensure_row(self, data: bytes) -> int:
        slot = self._slot(data)
        row = self._slots[slot]
        if row < 0:
            row = self._slots[slot] = len(self)
            self._append(data)
        return row

    def _append(self, data: bytes) -> None:
        self._text += data
        try:
            self._ends.append(len(self._text))
        except OverflowError:
            self._ends = array(_WIDE, self._ends)
            self._ends.append(len(self._text))
        if 4 * len(self) > 3 * len(self._slots):
            self._spread(len(self._slots) * 3 // 2)

    def _spread(self, size: int) -> None:
        """Put all rows into a new table of `size` slots."""
        slots, text = _empty_slots(size), bytes(self._text)
        for row, (start, end) in enumerate(pairwise(self._ends)):
            slot = hash(text[start:end]) % size
            while slots[slot] >= 0:
                slot = (slot + 1) % size
            slots[slot] = row
        self._slots = slots


def numbered(keys: Iterable[str]) -> tuple[list[str], Tensor]:
    """The distinct keys in order of appearance, and for each element its position among them (int64)."""
    positions: dict[str, int] = {}
    found = array("q", [positions.setdefault(key, len(positions)) for key in keys])
    return list(positions), as_int64(found)


def as_int64(values: array[int]) -> Tensor:
    """The numbers of an array of type `q`, which the tensor shares."""
    return torch.frombuffer(values, dtype=torch.int64) if values else torch.empty(0, dtype=torch.int64)


_NO_TEXT = torch.empty(0, dtype=torch.uint8)


def _empty_slots(size: int) -> array[int]:
    return array("i", [-1]) * size


def _positions(values: Sequence[int]) -> array[int]:
    try:
        return array(_NARROW, values)
    except OverflowError:
        return array(_WIDE, values)


def _encoded(key: str) -> bytes:
    """UTF-8, in which a lone surrogate is three bytes like other characters of its range."""
    try:
        return str.encode(key, "utf-8", "surrogatepass")
    except TypeError:
        raise TypeError(f"a preference group is a string, not {key!r}") from None


def _decoded(data: bytearray) -> str:
    return data.decode("utf-8", "surrogatepass")
