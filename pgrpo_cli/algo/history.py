"""The reward history: statistics of all past rewards of every preference group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from typing import Any, Literal

import torch
from torch import Tensor

from pgrpo_cli.errors import CheckpointError
from pgrpo_cli.names import nearest

from .history_table import WHOLE, Column, HistoryTable, numbered
from .memory import Cumulative, Ema, Memory, Stream, Window
from .types import GroupStats, HistoryLookup, RewardBatch

HistoryKind = Literal["cumulative", "ema", "window"]

_VERSION = 1
_COUNTERS: dict[str, Column] = dict.fromkeys(("n", "prompts", "first_step", "last_step"), (WHOLE, ()))


class RewardHistory:
    """Mean, spread and variance components of all rewards of each preference group.

    kind `cumulative`: every reward counts alike (P-GRPO, arXiv 2603.10009); `ema`: a reward counts `decay` to
    the power of the number of later rewards of its preference group; `window`: the latest `window` rewards
    count. Standard deviations are sample ones (n - 1). The order of rewards within a batch matters only to
    the kinds that forget.
    """

    def __init__(
        self, kind: HistoryKind = "cumulative", *, decay: float | None = None, window: int | None = None
    ) -> None:
        self.kind, self.decay, self.window = kind, decay, window
        self._memory = _memory(kind, decay, window)
        self._table = HistoryTable({**_COUNTERS, **self._memory.columns})

    @property
    def preference_groups(self) -> list[str]:
        """Preference groups with at least one reward, in order of first appearance."""
        return self._table.keys

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
        ValueError for lengths that do not fit or a step below 0, RewardError for an infinite reward, both
        without a change.
        """
        if step < 0:
            raise ValueError(f"step {step} is below 0")
        batch = RewardBatch.of(rewards_N, preference_groups_N, num_generations)
        valid_P_G = batch.valid_N.view(-1, num_generations)
        counted_P = valid_P_G.any(1)
        preference_groups = list(compress(batch.preference_groups_P, counted_P.tolist()))
        if not preference_groups:
            return
        distinct, sets_P = numbered(preference_groups)
        rows_U = self._table.ensure_rows(distinct)
        prompts_M = torch.repeat_interleave(valid_P_G[counted_P].sum(1))
        stream = Stream(batch.rewards_N[batch.valid_N], prompts_M, sets_P, len(rows_U))
        self._memory.add(self._table, rows_U, stream)
        steps_U = torch.full_like(rows_U, step)
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
        self._count(rows_U, *(theirs.read(counter, theirs.all_rows()) for counter in _COUNTERS))

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
        distinct, sets_N = numbered(preference_groups_N)
        rows_K = self._table.rows(distinct)
        known_K = rows_K >= 0
        moments = self._memory.read(self._table, rows_K[known_K])

        def spread(values: Tensor) -> Tensor:
            padded_K = torch.zeros(len(rows_K), dtype=values.dtype)
            padded_K[known_K] = values
            return padded_K[sets_N]

        return HistoryLookup(
            count_N=spread(self._table.read("n", rows_K[known_K])),
            mean_N=spread(moments.mean),
            std_N=spread(moments.std),
            within_variance_N=spread(moments.within_variance),
            between_variance_N=spread(moments.between_variance),
        )

    def stats(self, preference_groups: Iterable[str] | None = None) -> dict[str, GroupStats]:
        """Statistics of those of `preference_groups` that have rewards; None: of all, the earliest first."""
        if preference_groups is None:
            names, rows_K = self.preference_groups, self._table.all_rows()
        else:
            distinct, _ = numbered(preference_groups)
            rows_K = self._table.rows(distinct)
            names = list(compress(distinct, (rows_K >= 0).tolist()))
            rows_K = rows_K[rows_K >= 0]
        moments = self._memory.read(self._table, rows_K)
        columns = {
            **{counter: self._table.read(counter, rows_K) for counter in _COUNTERS},
            "mean": moments.mean,
            "std": moments.std,
            "within_variance": moments.within_variance,
            "between_variance": moments.between_variance,
            "effective_n": moments.effective_n,
        }
        values_K = zip(*(column.tolist() for column in columns.values()), strict=True)
        stats_K = (GroupStats(**dict(zip(columns, values, strict=True))) for values in values_K)
        return dict(zip(names, stats_K, strict=True))

    def most_seen(self, count: int) -> list[str]:
        """The `count` preference groups with the most rewards, most first, then the earliest."""
        n_K = self._table.read("n", self._table.all_rows())
        names = self.preference_groups
        return [names[row] for row in n_K.argsort(descending=True, stable=True)[:count].tolist()]

    def state_dict(self) -> dict[str, Any]:
        """All of it: the settings as JSON-able values, and tensors under `columns`."""
        return {"version": _VERSION, **self._signature, "columns": self._table.state_dict()}

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
            self._table.load_state_dict(state["columns"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
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
            # A search among a million names takes seconds.
            near = nearest(preference_group, self.most_seen(1000))
            hint = f"; did you mean {near!r}?" if near else ""
            raise KeyError(f"no rewards of preference group {preference_group!r} yet{hint}")
        return self.lookup([preference_group])

    def _count(self, rows_U: Tensor, n_U: Tensor, prompts_U: Tensor, first_U: Tensor, last_U: Tensor) -> None:
        """Raise the counters of `rows_U`, which come in the order of `_COUNTERS`."""
        n, prompts, first, last = (self._table.read(counter, rows_U) for counter in _COUNTERS)
        raised = (
            n + n_U,
            prompts + prompts_U,
            torch.where(n == 0, first_U, torch.minimum(first, first_U)),
            torch.maximum(last, last_U),
        )
        for counter, values in zip(_COUNTERS, raised, strict=True):
            self._table.write(counter, rows_U, values)


def _memory(kind: HistoryKind, decay: float | None, window: int | None) -> Memory:
    """The memory of a kind. ValueError for a missing, unused or impossible setting."""
    given = {name for name, value in (("decay", decay), ("window", window)) if value is not None}
    if kind == "cumulative" and not given:
        return Cumulative()
    if kind == "ema" and given == {"decay"} and decay is not None and 0 < decay < 1:
        return Ema(decay)
    if kind == "window" and given == {"window"} and window is not None and window >= 2:
        return Window(window)
    raise ValueError(
        f"a reward history of kind {kind!r} with decay {decay} and window {window}: `cumulative` takes "
        "neither, `ema` a decay between 0 and 1, `window` a window of 2 rewards or more"
    )
