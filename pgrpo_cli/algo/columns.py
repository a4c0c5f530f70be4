"""A table that grows: string keys to rows, numbers in one tensor a column."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

from .ids import Ids, as_int64

Kind = Literal["real", "whole"]
Column = tuple[Kind, tuple[int, ...]]
"""What its numbers are, and the shape of one row's entry; () is a number."""

_REAL = torch.float64
_WHOLE = (torch.int16, torch.int32, torch.int64)
_TEXT, _LENGTHS = "preference_group_ids", "preference_group_id_lengths"


class HistoryTable:
    """Rows in order of first appearance; new ones are zero.

    Real numbers are float64. Whole ones are read and written as int64 and kept in as few bytes as the largest
    one that a column has ever held needs, 2 at least.
    """

    def __init__(self, columns: Mapping[str, Column]) -> None:
        self.columns = dict(columns)
        self._ids = Ids()
        self._data = {
            name: torch.empty((0, *shape), dtype=_REAL if kind == "real" else _WHOLE[0])
            for name, (kind, shape) in self.columns.items()
        }

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, key: str) -> bool:
        return key in self._ids

    @property
    def keys(self) -> list[str]:
        """The keys, in row order."""
        return list(self._ids)

    def keys_at(self, rows: Tensor) -> list[str]:
        """The keys of `rows`, in their order."""
        return [self._ids[row] for row in rows.tolist()]

    @property
    def nbytes(self) -> int:
        """Bytes of the rows in use, their keys, and what finds them."""
        return self._ids.nbytes + sum(data[: len(self)].nbytes for data in self._data.values())

    def rows(self, keys: Iterable[str]) -> Tensor:
        """Row number of each key (int64), -1 for one that has none."""
        return as_int64(array("q", self._ids.rows(keys)))

    def ensure_rows(self, keys: Iterable[str]) -> Tensor:
        """Row number of each key (int64); keys without a row get one."""
        before = len(self)
        rows = as_int64(array("q", self._ids.ensure_rows(keys)))
        if len(self) > before:
            self._add_zeros(before)
        return rows

    def all_rows(self) -> Tensor:
        """Every row number (int64)."""
        return torch.arange(len(self))

    def read(self, column: str, places: Tensor) -> Tensor:
        """Numbers at `places`, float64 or int64. Places count from 0, row by row."""
        values = self._data[column].take(places)
        return values if values.dtype == _REAL else values.long()

    def write(self, column: str, places: Tensor, values: Tensor) -> None:
        """Set the numbers at `places`, which are distinct; whole ones are 0 or more, in whichever type."""
        data = self._data[column]
        if data.dtype != _REAL and values.max() > torch.iinfo(data.dtype).max:
            self._data[column] = data.to(_WHOLE[_WHOLE.index(data.dtype) + 1])
            self.write(column, places, values)
        else:
            # put_ would do the same, and has no deterministic kernel by torch's account.
            data.view(-1)[places] = values.to(data.dtype)

    def state_dict(self) -> dict[str, Tensor]:
        """Keys and columns as tensors that share nothing with the table."""
        text, lengths = self._ids.state()
        data = {name: data[: len(self)].clone() for name, data in self._data.items()}
        return {_TEXT: text, _LENGTHS: lengths, **data}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Replace all rows. ValueError, and no change, for a `state` that does not fit."""
        missing = [name for name in (_TEXT, _LENGTHS, *self.columns) if name not in state]
        if missing:
            raise ValueError(f"{', '.join(missing)} missing")
        ids = Ids.of_state(state[_TEXT], state[_LENGTHS])
        data = {}
        for name, (kind, shape) in self.columns.items():
            column = state[name]
            if column.dtype not in ((_REAL,) if kind == "real" else _WHOLE):
                raise ValueError(f"column {name!r} holds {column.dtype}")
            if column.shape != (len(ids), *shape):
                raise ValueError(f"column {name!r} has shape {tuple(column.shape)} for {len(ids)} rows")
            if not column.isfinite().all():
                raise ValueError(f"column {name!r} holds NaN or infinity")
            if kind == "whole" and (column < 0).any():
                raise ValueError(f"column {name!r} holds a number below 0")
            data[name] = column.clone()
        self._ids, self._data = ids, data

    def _add_zeros(self, start: int) -> None:
        """Make the rows from `start` on; growing by an eighth more keeps adding rows one by one cheap."""
        size = len(self)
        for name, old in self._data.items():
            if size > len(old):
                # Memory that is not written to is not taken from the system.
                grown = torch.empty((size + size // 8 + 8, *old.shape[1:]), dtype=old.dtype)
                grown[:start] = old[:start]
                self._data[name] = grown
            self._data[name][start:size] = 0
