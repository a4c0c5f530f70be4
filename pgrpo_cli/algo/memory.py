"""How a reward history stores past rewards: as weighted sums, or as the latest rewards themselves.

A memory writes columns of its own in the history's table and reads them as `Moments`. The history writes the
columns `n` and `prompts`, and does so after the memory has added the rewards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from .history_table import FLAG, REAL, WHOLE, Column, HistoryTable, checked
from .moments import Moments, merge, pool_prompts, prompt_moments, segment_ranks


@dataclass(frozen=True)
class Stream:
    """Rewards in order of arrival: M rewards of P prompts of U preference groups. Indices are int64."""

    rewards_M: Tensor
    prompts_M: Tensor
    sets_P: Tensor
    num_sets: int

    @cached_property
    def sets_M(self) -> Tensor:
        """The preference group (0 to U - 1) of each reward."""
        return self.sets_P[self.prompts_M]

    @cached_property
    def counts_U(self) -> Tensor:
        """The number of rewards of each preference group."""
        return torch.bincount(self.sets_M, minlength=self.num_sets)

    @cached_property
    def prompt_counts_U(self) -> Tensor:
        """The number of prompts of each preference group."""
        return torch.bincount(self.sets_P, minlength=self.num_sets)

    def moments(self, weights_M: Tensor) -> Moments:
        """The moments of the rewards of each preference group."""
        prompts = prompt_moments(self.rewards_M, weights_M, self.prompts_M, len(self.sets_P))
        return pool_prompts(prompts, self.sets_P, self.num_sets)


class Memory(Protocol):
    """How past rewards are stored in the table. `rows_U` are distinct."""

    columns: Mapping[str, Column]

    def add(self, table: HistoryTable, rows_U: Tensor, stream: Stream) -> None:
        """Add the rewards of a batch. Those of preference group u of the stream belong to row `rows_U[u]`."""

    def append(self, table: HistoryTable, rows_U: Tensor, other: HistoryTable) -> None:
        """Add all of `other` as later rewards. Its row u belongs to row `rows_U[u]`."""

    def read(self, table: HistoryTable, rows_U: Tensor) -> Moments:
        """The moments of the remembered rewards."""

    def to_disk(self, table: HistoryTable, columns: dict[str, Tensor]) -> None:
        """Change columns of the table into what is saved, where that differs."""

    def from_disk(self, columns: dict[str, Tensor]) -> None:
        """Change what was saved into columns of the table. Raises KeyError or ValueError if it is damaged."""


class _SavedAsStored:
    """A memory whose columns are saved as they are."""

    def to_disk(self, table: HistoryTable, columns: dict[str, Tensor]) -> None: ...

    def from_disk(self, columns: dict[str, Tensor]) -> None: ...


class Cumulative(_SavedAsStored):
    """All rewards with weight 1, in O(1) memory per preference group: Welford's recurrence.

    With weights of 1 three of the sums in `Moments` are plain counts: `weight` and `weight_sq` are the number
    of rewards, and `prompt_weight` is the number of prompts. They are not stored again.
    """

    columns: Mapping[str, Column] = {
        **dict.fromkeys(("mean", "within", "between"), (REAL, ())),
        "prompt_weight_sq": (WHOLE, ()),
    }

    def add(self, table: HistoryTable, rows_U: Tensor, stream: Stream) -> None:
        self._merge(table, rows_U, stream.moments(torch.ones_like(stream.rewards_M)))

    def append(self, table: HistoryTable, rows_U: Tensor, other: HistoryTable) -> None:
        self._merge(table, rows_U, self.read(other, other.all_rows()))

    def read(self, table: HistoryTable, rows_U: Tensor) -> Moments:
        n_U = table.read("n", rows_U).double()
        prompts_U = table.read("prompts", rows_U).double()
        sums = {name: table.read(name, rows_U).double() for name in self.columns}
        return Moments(weight=n_U, weight_sq=n_U, prompt_weight=prompts_U, **sums)

    def _merge(self, table: HistoryTable, rows_U: Tensor, newer: Moments) -> None:
        merged = merge(self.read(table, rows_U), newer)
        for name in self.columns:
            table.write(name, rows_U, getattr(merged, name))


class Ema(_SavedAsStored):
    """Sums in O(1) memory per preference group. The weight of a reward is `decay` to the power of the number
    of later rewards.

    The total weight is not stored: it is a geometric sum that depends only on the number of rewards.
    """

    columns: Mapping[str, Column] = dict.fromkeys(
        ("mean", "within", "between", "prompt_weight", "prompt_weight_sq"), (REAL, ())
    )

    def __init__(self, decay: float) -> None:
        self.decay = decay

    def add(self, table: HistoryTable, rows_U: Tensor, stream: Stream) -> None:
        counts_U, sets_M = stream.counts_U, stream.sets_M
        later_M = counts_U[sets_M] - 1 - segment_ranks(sets_M, counts_U)
        self._merge(table, rows_U, stream.moments(self._power(later_M)), counts_U)

    def append(self, table: HistoryTable, rows_U: Tensor, other: HistoryTable) -> None:
        theirs = other.all_rows()
        self._merge(table, rows_U, self.read(other, theirs), other.read("n", theirs))

    def read(self, table: HistoryTable, rows_U: Tensor) -> Moments:
        n_U = table.read("n", rows_U).double()
        sums = {name: table.read(name, rows_U) for name in self.columns}
        return Moments(
            weight=_geometric_sum(self.decay, n_U), weight_sq=_geometric_sum(self.decay**2, n_U), **sums
        )

    def _merge(self, table: HistoryTable, rows_U: Tensor, newer: Moments, counts_U: Tensor) -> None:
        merged = merge(self.read(table, rows_U), newer, self._power(counts_U))
        for name in self.columns:
            table.write(name, rows_U, getattr(merged, name))

    def _power(self, exponents: Tensor) -> Tensor:
        return torch.pow(torch.tensor(self.decay, dtype=torch.float64), exponents.double())


class Window:
    """The latest `size` rewards of each preference group, in a ring buffer: reward i in slot i mod size.

    Of its prompt a reward stores one byte: whether it is the first one. On disk it is the number of the
    prompt, counted from 0 within the preference group, as in earlier versions. Prompts are numbered without
    gaps, so the numbers follow from the bytes and the number of prompts.
    """

    _CHUNK_ELEMENTS = 1 << 20
    """How many slots are read at once. Limits the temporary memory when many preference groups are read."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.columns: Mapping[str, Column] = {"rewards": (REAL, (size,)), "prompt_starts": (FLAG, (size,))}

    def add(self, table: HistoryTable, rows_U: Tensor, stream: Stream) -> None:
        self._write(table, rows_U, table.read("n", rows_U), stream)

    def append(self, table: HistoryTable, rows_U: Tensor, other: HistoryTable) -> None:
        theirs = other.all_rows()
        stream, _ = self._stored(other, theirs)
        forgotten_U = other.read("n", theirs) - stream.counts_U
        self._write(table, rows_U, table.read("n", rows_U) + forgotten_U, stream)

    def read(self, table: HistoryTable, rows_U: Tensor) -> Moments:
        return Moments.concatenate([self._read_chunk(table, rows) for rows in self._chunks(rows_U)])

    def to_disk(self, table: HistoryTable, columns: dict[str, Tensor]) -> None:
        del columns["prompt_starts"]
        numbers = columns["prompt_numbers"] = torch.zeros((len(table), self.size), dtype=torch.int64)
        for rows_U in self._chunks(table.all_rows()):
            stream, places_M = self._stored(table, rows_U)
            ends_U = stream.prompt_counts_U.cumsum(0)
            later_M = ends_U[stream.sets_M] - stream.prompts_M
            numbers.view(-1)[places_M] = table.read("prompts", rows_U)[stream.sets_M] - later_M

    def from_disk(self, columns: dict[str, Tensor]) -> None:
        numbers = columns.pop("prompt_numbers")
        numbers = checked("prompt_numbers", numbers, (WHOLE, (self.size,)), len(columns["rewards"]))
        columns["prompt_starts"] = numbers != numbers.roll(1, dims=1)

    def _chunks(self, rows_U: Tensor) -> list[Tensor]:
        """The rows in portions, at least one."""
        at_once = max(1, self._CHUNK_ELEMENTS // self.size)
        return [rows_U[i : i + at_once] for i in range(0, max(len(rows_U), 1), at_once)]

    def _read_chunk(self, table: HistoryTable, rows_U: Tensor) -> Moments:
        stream, _ = self._stored(table, rows_U)
        return stream.moments(torch.ones_like(stream.rewards_M))

    def _write(self, table: HistoryTable, rows_U: Tensor, n_U: Tensor, stream: Stream) -> None:
        """Store the last `size` rewards of each preference group; `n_U` rewards came before them."""
        sets_M, counts_U = stream.sets_M, stream.counts_U
        ranks_M = segment_ranks(sets_M, counts_U)
        kept_M = ranks_M >= counts_U[sets_M] - self.size
        slots_M = (n_U[sets_M] + ranks_M) % self.size
        places = (rows_U[sets_M] * self.size + slots_M)[kept_M]
        starts_M = torch.ones_like(kept_M)
        starts_M[1:] = stream.prompts_M[1:] != stream.prompts_M[:-1]
        table.write("rewards", places, stream.rewards_M[kept_M])
        table.write("prompt_starts", places, starts_M[kept_M])

    def _stored(self, table: HistoryTable, rows_U: Tensor) -> tuple[Stream, Tensor]:
        """The remembered rewards of `rows_U`, oldest first, and their places in the table."""
        n_U = table.read("n", rows_U)
        counts_U = n_U.clamp(max=self.size)
        sets_M = torch.repeat_interleave(counts_U)
        ranks_M = torch.arange(len(sets_M)) - (counts_U.cumsum(0) - counts_U)[sets_M]
        slots_M = ((n_U - counts_U)[sets_M] + ranks_M) % self.size
        places_M = rows_U[sets_M] * self.size + slots_M
        # The first reward of the oldest prompt may be forgotten.
        starts_M = table.read("prompt_starts", places_M) | (ranks_M == 0)
        prompts_M = starts_M.cumsum(0) - 1
        return Stream(table.read("rewards", places_M), prompts_M, sets_M[starts_M], len(rows_U)), places_M


def _geometric_sum(ratio: float, n_U: Tensor) -> Tensor:
    """1 + ratio + ... + ratio^(n-1). `expm1` keeps it accurate for a ratio close to 1."""
    return torch.expm1(n_U * math.log(ratio)) / (ratio - 1)
