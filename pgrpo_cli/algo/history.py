"""The reward history: what every preference group has been paid so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any, Literal

import torch
from torch import Tensor

from pgrpo_cli.errors import CheckpointError
from pgrpo_cli.registry import nearest

from .columns import Column, Table
from .memory import Fading, Memory, Stream, Window
from .moments import Moments
from .types import GroupStats, HistoryLookup, RewardBatch

HistoryKind = Literal["cumulative", "ema", "window"]

_VERSION = 1
_COUNTERS: dict[str, Column] = {
    "n": (torch.int64, ()),
    "prompts": (torch.int32, ()),
    "first_step": (torch.int32, ()),
    "last_step": (torch.int32, ()),
}


class RewardHistory:
    """Mean, spread and variance components of all rewards of each preference group.

    kind `cumulative`: every reward counts alike (P-GRPO, arXiv 2603.10009); `ema`: a reward counts `decay` to
    the power of the number of later rewards of its preference group; `window`: the latest `window` rewards
    count. Standard deviations are sample ones (n - 1). The order of rewards within a batch matters only to
    the kinds that forget. Besides its id, a preference group takes 60 bytes, with `window` 20 and 12 a slot.
    """

    def __init__(
        self, kind: HistoryKind = "cumulative", *, decay: float | None = None, window: int | None = None
    ) -> None:
        self.kind, self.decay, self.window = kind, decay, window
        self._memory = _memory(kind, decay, window)
        self._table = Table({**_COUNTERS, **self._memory.columns})

    @property
    def preference_groups(self) -> list[str]:
        """Preference groups with at least one reward, in order of first appearance."""
        return self._table.keys

    @property
    def nbytes(self) -> int:
        """Bytes of all numbers kept, ids not counted."""
        return self._table.nbytes

    def update(
        self,
        rewards_N: Sequence[float] | Tensor,
        preference_groups_N: Sequence[str],
        *,
        num_generations: int,
        step: int,
    ) -> None:
        """Take in the rewards of a step. Consecutive runs of `num_generations` belong to one prompt.

        NaN rewards are not counted; a preference group is known from its first counted reward on.
        ValueError for lengths that do not fit, RewardError for an infinite reward, both without a change.
        """
        batch = RewardBatch.of(rewards_N, preference_groups_N, num_generations)
        valid_P_G = batch.valid_N.view(-1, num_generations)
        counted_P = valid_P_G.any(1)
        preference_groups = list(compress(batch.preference_groups_P, counted_P.tolist()))
        if not preference_groups:
            return
        rows_U, sets_P = torch.unique(self._table.ensure_rows(preference_groups), return_inverse=True)
        prompts_M = torch.repeat_interleave(valid_P_G[counted_P].sum(1))
        stream = Stream(batch.rewards_N[batch.valid_N], prompts_M, sets_P, len(rows_U))
        self._memory.add(self._table, rows_U, stream)
        steps_U = torch.full_like(rows_U, step, dtype=torch.int32)
        self._count(rows_U, stream.counts_U, stream.prompt_counts_U, steps_U, steps_U)

    def merge(self, other: RewardHistory) -> None:
        """Take in another history of the same kind, whose rewards count as later ones.

        Equals one history that received both streams, to float64 rounding; the variance components too, if no
        prompt has rewards in both. A `cumulative` history does not depend on which is later.
        """
        if self._signature != other._signature:
            raise ValueError(f"a history of {other._signature} does not merge into one of {self._signature}")
        theirs = other._table
        if len(theirs) == 0:
            return
        rows_U = self._table.ensure_rows(theirs.keys)
        self._memory.append(self._table, rows_U, theirs)
        self._count(rows_U, theirs["n"], theirs["prompts"], theirs["first_step"], theirs["last_step"])

    def count(self, preference_group: str) -> int:
        """Rewards received, those that are forgotten included; 0 for an unknown preference group."""
        return int(self.lookup([preference_group]).count_N)

    def mean(self, preference_group: str) -> float:
        """Mean reward. KeyError for a preference group without rewards."""
        return float(self._known(preference_group).mean_N)

    def std(self, preference_group: str) -> float:
        """Sample standard deviation, 0 below two rewards. KeyError for a preference group without rewards."""
        return float(self._known(preference_group).std_N)

    def lookup(self, preference_groups_N: Sequence[str]) -> HistoryLookup:
        """Statistics for each element; zeros where a preference group has no rewards."""
        rows_K, inverse_N = torch.unique(self._table.rows(preference_groups_N), return_inverse=True)
        known_K = rows_K >= 0
        count_K, moments = self._read(rows_K[known_K])

        def spread(values: Tensor) -> Tensor:
            padded_K = torch.zeros(len(rows_K), dtype=values.dtype)
            padded_K[known_K] = values
            return padded_K[inverse_N]

        return HistoryLookup(
            count_N=spread(count_K),
            mean_N=spread(moments.mean),
            std_N=spread(moments.std),
            within_variance_N=spread(moments.within_variance),
            between_variance_N=spread(moments.between_variance),
        )

    def stats(self) -> dict[str, GroupStats]:
        """Statistics of every preference group, in order of first appearance."""
        n, moments = self._read(torch.arange(len(self._table)))
        columns = {
            "n": n,
            "mean": moments.mean,
            "std": moments.std,
            "first_step": self._table["first_step"],
            "last_step": self._table["last_step"],
            "prompts": self._table["prompts"],
            "within_variance": moments.within_variance,
            "between_variance": moments.between_variance,
            "effective_n": moments.effective_n,
        }
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        return {
            key: GroupStats(**dict(zip(columns, row, strict=True)))
            for key, row in zip(self._table.keys, rows, strict=True)
        }

    def state_dict(self) -> dict[str, Any]:
        """All of it as JSON-able values; `load_state_dict` restores it bit for bit, through JSON text too."""
        return {"version": _VERSION, **self._signature, **self._table.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace the contents. CheckpointError, and no change, if it is damaged or of another kind."""
        expected = {"version": _VERSION, **self._signature}
        found = {key: state.get(key) for key in expected}
        if found != expected:
            raise CheckpointError(
                f"the saved reward history is one of {found}, this run needs one of {expected}",
                remedy="Set `history.kind` to what the run was started with, or start over with --fresh.",
            )
        try:
            self._table.load_state_dict(state)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"the saved reward history is damaged: {error}") from error

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> RewardHistory:
        """A new history of the kind that was saved."""
        try:
            history = cls(state["kind"], decay=state["decay"], window=state["window"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the saved reward history is damaged: {error!r}") from error
        history.load_state_dict(state)
        return history

    @property
    def _signature(self) -> dict[str, Any]:
        return {"kind": self.kind, "decay": self.decay, "window": self.window}

    def _known(self, preference_group: str) -> HistoryLookup:
        if preference_group not in self._table:
            near = nearest(preference_group, self._table.keys)
            hint = f"; did you mean {near!r}?" if near else ""
            raise KeyError(f"no rewards of preference group {preference_group!r} yet{hint}")
        return self.lookup([preference_group])

    def _read(self, rows_K: Tensor) -> tuple[Tensor, Moments]:
        return self._table["n"][rows_K], self._memory.read(self._table, rows_K)

    def _count(self, rows_U: Tensor, n_U: Tensor, prompts_U: Tensor, first_U: Tensor, last_U: Tensor) -> None:
        """Raise the counters of `rows_U`."""
        table = self._table
        is_new_U = table["n"][rows_U] == 0
        first_known_U = table["first_step"][rows_U]
        table["first_step"][rows_U] = torch.where(is_new_U, first_U, torch.minimum(first_known_U, first_U))
        table["last_step"][rows_U] = torch.maximum(table["last_step"][rows_U], last_U)
        table["n"][rows_U] += n_U
        table["prompts"][rows_U] += prompts_U.int()


def _memory(kind: HistoryKind, decay: float | None, window: int | None) -> Memory:
    """The memory of a kind. ValueError for a missing, unused or impossible setting."""
    given = {name for name, value in (("decay", decay), ("window", window)) if value is not None}
    if kind == "cumulative" and not given:
        return Fading(1.0)
    if kind == "ema" and given == {"decay"} and decay is not None and 0 < decay < 1:
        return Fading(decay)
    if kind == "window" and given == {"window"} and window is not None and window >= 2:
        return Window(window)
    raise ValueError(
        f"a reward history of kind {kind!r} with decay {decay} and window {window}: `cumulative` takes "
        "neither, `ema` a decay between 0 and 1, `window` a window of 2 rewards or more"
    )
