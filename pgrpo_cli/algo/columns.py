"""A table that grows: string keys to rows, numbers in one tensor a column."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

Column = tuple[torch.dtype, tuple[int, ...]]
"""Element type, and the shape of one row's entry; () is a number."""


class _Rows(dict[str, int]):
    """Keys to row numbers; looking up a new key gives it the next row."""

    def __missing__(self, key: str) -> int:
        if not isinstance(key, str):
            raise TypeError(f"a preference group is a string, not {key!r}")
        row = self[key] = len(self)
        return row


class Table:
    """Rows in order of first appearance; new ones are zero. `table[name]` is a view of a column."""

    def __init__(self, columns: Mapping[str, Column]) -> None:
        self.columns = dict(columns)
        self._rows = _Rows()
        self._data = {
            name: torch.zeros((0, *shape), dtype=dtype) for name, (dtype, shape) in self.columns.items()
        }

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __getitem__(self, column: str) -> Tensor:
        return self._data[column][: len(self)]

    @property
    def keys(self) -> list[str]:
        """The keys, in row order."""
        return list(self._rows)

    @property
    def nbytes(self) -> int:
        """Bytes of the rows in use, keys not counted."""
        return sum(self[name].nbytes for name in self.columns)

    def rows(self, keys: Iterable[str]) -> Tensor:
        """Row number of each key (int64), -1 for one that has none."""
        return _int64(array("q", [self._rows.get(key, -1) for key in keys]))

    def ensure_rows(self, keys: Iterable[str]) -> Tensor:
        """Row number of each key (int64); keys without a row get one."""
        rows = _int64(array("q", list(map(self._rows.__getitem__, keys))))
        self._reserve(len(self))
        return rows

    def state_dict(self) -> dict[str, Any]:
        """Keys and columns as lists, which JSON carries bit for bit."""
        columns = {name: self[name].tolist() for name in self.columns}
        return {"preference_groups": self.keys, "columns": columns}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace all rows. A `state` that does not fit changes nothing.

        KeyError, TypeError, ValueError or RuntimeError, as torch and Python find it.
        """
        keys = state["preference_groups"]
        data = {}
        for name, (dtype, shape) in self.columns.items():
            data[name] = torch.tensor(state["columns"][name], dtype=dtype).reshape(len(keys), *shape)
            if not data[name].isfinite().all():
                raise ValueError(f"column {name!r} holds NaN or infinity")
        rows = _Rows()
        for key in keys:
            rows.__missing__(key)
        if len(rows) != len(keys):
            raise ValueError(f"{len(keys) - len(rows)} preference groups stand twice in the state")
        self._rows, self._data = rows, data

    def _reserve(self, size: int) -> None:
        """Make room for `size` rows; growing by an eighth more keeps adding rows one by one cheap."""
        for name, old in self._data.items():
            if size > len(old):
                grown = torch.zeros((size + size // 8 + 8, *old.shape[1:]), dtype=old.dtype)
                grown[: len(old)] = old
                self._data[name] = grown


def _int64(values: array[int]) -> Tensor:
    return torch.frombuffer(values, dtype=torch.int64) if values else torch.empty(0, dtype=torch.int64)
