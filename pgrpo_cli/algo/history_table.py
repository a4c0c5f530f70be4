"""A growing table: a dict maps preference groups to rows, and each column of numbers is one tensor.

There may be a million rows, so memory is saved where that is simple: ids are stored as UTF-8, which takes
less than Python's strings, and whole numbers take 32 bits until one of them needs 64.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from itertools import accumulate, pairwise

import torch
from torch import Tensor

Column = tuple[torch.dtype, tuple[int, ...]]
"""The dtype of a column, and the shape of its entry in one row; () is a single number."""

REAL, WHOLE, FLAG = torch.float64, torch.int64, torch.bool
"""What a column may hold. Whole numbers are read and saved as int64, whatever they take in memory."""
_NARROW = torch.int32
_SAVED_WHOLE = (torch.int16, torch.int32, torch.int64)
"""Dtypes of saved integers: version 0.1 saved them in the smallest dtype that held them."""
_LARGEST_NARROW = torch.iinfo(_NARROW).max
_TEXT, _LENGTHS = "preference_group_ids", "preference_group_id_lengths"


class HistoryTable:
    """Rows are in order of first appearance. The numbers of a new row are 0."""

    def __init__(self, columns: Mapping[str, Column]) -> None:
        self.columns = dict(columns)
        self._rows: dict[bytes, int] = {}
        self._data = {
            name: torch.zeros((0, *shape), dtype=_NARROW if dtype == WHOLE else dtype)
            for name, (dtype, shape) in columns.items()
        }

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: str) -> bool:
        return _encoded(key) in self._rows

    @property
    def keys(self) -> list[str]:
        """The keys, in row order."""
        return [key.decode("utf-8", "surrogatepass") for key in self._rows]

    def rows(self, keys: Iterable[str]) -> Tensor:
        """The row of each key (int64); -1 for a key without a row."""
        return int64(self._rows.get(_encoded(key), -1) for key in keys)

    def ensure_rows(self, keys: Iterable[str]) -> Tensor:
        """The row of each key (int64). Keys without a row get a new one.

        Raises TypeError, without a change, for a key that is not a string.
        """
        keys = list(keys)
        for key in keys:
            if not isinstance(key, str):
                raise TypeError(f"a preference group is a string, not {key!r}")
        rows = int64(self._rows.setdefault(_encoded(key), len(self._rows)) for key in keys)
        self._reserve(len(self))
        return rows

    def all_rows(self) -> Tensor:
        """The indices of all rows (int64)."""
        return torch.arange(len(self))

    def read(self, column: str, places: Tensor) -> Tensor:
        """The numbers at `places`: indices into the flattened column."""
        found = self._data[column].take(places)
        return found.long() if found.dtype == _NARROW else found

    def write(self, column: str, places: Tensor, values: Tensor) -> None:
        """Set the numbers at `places`: distinct indices into the flattened column."""
        data = self._data[column]
        if data.dtype == _NARROW and len(values) and int(values.max()) > _LARGEST_NARROW:
            data = self._data[column] = data.long()
        # Not put_: torch has no deterministic kernel for it, so train.deterministic would refuse it.
        data.view(-1)[places] = values.to(data.dtype)

    def state_dict(self) -> dict[str, Tensor]:
        """Keys and columns as tensors that share no memory with the table.

        The keys are saved as concatenated UTF-8 (uint8), and the length of each in bytes (int32).
        """
        text = bytearray().join(self._rows)
        return {
            _TEXT: torch.frombuffer(text, dtype=torch.uint8) if text else torch.empty(0, dtype=torch.uint8),
            _LENGTHS: torch.tensor(list(map(len, self._rows)), dtype=torch.int32),
            **{name: _saved(data[: len(self)]) for name, data in self._data.items()},
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Replace all rows. Raises ValueError, without a change, for a `state` that does not fit."""
        missing = [name for name in (_TEXT, _LENGTHS, *self.columns) if name not in state]
        if missing:
            raise ValueError(f"{', '.join(missing)} missing")
        rows = _keys_of(state[_TEXT], state[_LENGTHS])
        data = {name: checked(name, state[name], column, len(rows)) for name, column in self.columns.items()}
        self._rows, self._data = rows, data

    def _reserve(self, size: int) -> None:
        """Grow the columns to at least `size` rows. They grow by an eighth more than needed, so that adding
        rows one by one does not copy the columns each time.

        The new rows are not written to: the system gives them memory only once they are used.
        """
        for name, old in self._data.items():
            if size > len(old):
                grown = torch.zeros((size + size // 8 + 8, *old.shape[1:]), dtype=old.dtype)
                grown[: len(old)] = old
                self._data[name] = grown


def numbered(keys: Iterable[str]) -> tuple[list[str], Tensor]:
    """The distinct keys in order of appearance, and the position of each element among them (int64)."""
    positions: dict[str, int] = {}
    position_of_each = int64(positions.setdefault(key, len(positions)) for key in keys)
    return list(positions), position_of_each


def int64(values: Iterable[int]) -> Tensor:
    """Integers as a tensor. torch.tensor would need a list of Python objects, which takes more memory."""
    numbers = array("q", values)
    return torch.frombuffer(numbers, dtype=torch.int64) if numbers else torch.empty(0, dtype=torch.int64)


def _encoded(key: str) -> bytes:
    # JSON may contain lone surrogates, which plain UTF-8 cannot encode.
    return key.encode("utf-8", "surrogatepass")


def _keys_of(text: Tensor, lengths: Tensor) -> dict[bytes, int]:
    """The keys of a saved table with their rows. Raises ValueError if they are damaged."""
    if (text.dtype, lengths.dtype, text.dim(), lengths.dim()) != (torch.uint8, torch.int32, 1, 1):
        raise ValueError("ids are not bytes with lengths")
    if (lengths < 0).any() or int(lengths.sum()) != len(text):
        raise ValueError(f"ids have {len(text)} bytes, and their lengths add up to {int(lengths.sum())}")
    data = text.numpy().tobytes()
    spans = pairwise(accumulate(lengths.tolist(), initial=0))
    keys = [data[start:end] for start, end in spans]
    for key in keys:
        key.decode("utf-8", "surrogatepass")
    rows = {key: row for row, key in enumerate(keys)}
    if len(rows) < len(keys):
        raise ValueError(f"{len(keys) - len(rows)} ids occur twice")
    return rows


def _saved(data: Tensor) -> Tensor:
    """A copy of a column as it is saved."""
    return data.long() if data.dtype == _NARROW else data.clone()


def checked(name: str, saved: Tensor, column: Column, rows: int) -> Tensor:
    """A copy of a saved column. Raises ValueError if it cannot be a column of a history."""
    dtype, shape = column
    if saved.dtype not in (_SAVED_WHOLE if dtype == WHOLE else (dtype,)):
        raise ValueError(f"column {name!r} holds {saved.dtype}")
    if saved.shape != (rows, *shape):
        raise ValueError(f"column {name!r} has shape {tuple(saved.shape)} for {rows} rows")
    if not saved.isfinite().all():
        raise ValueError(f"column {name!r} holds NaN or infinity")
    if dtype == WHOLE and (saved < 0).any():
        raise ValueError(f"column {name!r} holds a number below 0")
    if dtype == WHOLE and (not saved.numel() or int(saved.max()) <= _LARGEST_NARROW):
        dtype = _NARROW
    return saved.to(dtype, copy=True)
