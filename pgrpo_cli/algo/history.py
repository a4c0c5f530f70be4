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
from .winsorize import winsorized

HistoryKind = Literal["cumulative", "ema", "window"]

_VERSION = 1
_COUNTERS: dict[str, Column] = dict.fromkeys(("n", "prompts", "first_step", "last_step"), (WHOLE, ()))


class RewardHistory:
    """Mean, standard deviation and variance components of the rewards of each preference group.

    Kinds of history:
    - `cumulative`: all rewards have the same weight (P-GRPO, arXiv 2603.10009).
    - `ema`: the weight of a reward is `decay` to the power of the number of later rewards of its preference
      group.
    - `window`: only the latest `window` rewards count.

    With `winsorize` a reward far from the others enters as one at a limit (`winsorize.py`).

    Standard deviations are those of a sample (n - 1). The order of rewards within a batch matters only to
    `ema` and `window`.
    """

    def __init__(
        self,
        kind: HistoryKind = "cumulative",
        *,
        decay: float | None = None,
        window: int | None = None,
        winsorize: float | None = None,
    ) -> None:
        self.kind, self.decay, self.window = kind, decay, window
        self.winsorize = winsorize
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
        """Add the rewards of a step. Each `num_generations` consecutive rewards belong to one prompt.

        NaN rewards are not counted. A preference group is in the history from its first counted reward on.
        Raises ValueError for lengths that do not match or a negative step, and RewardError for an infinite
        reward; the history is then unchanged.
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
        rewards_M = batch.rewards_N[batch.valid_N]
        if self.winsorize is not None:
            sets_M = sets_P[prompts_M]
            past_M = self.lookup([distinct[number] for number in sets_M.tolist()])
            rewards_M = winsorized(rewards_M, sets_M, past_M, self.winsorize, window=self.window)
        stream = Stream(rewards_M, prompts_M, sets_P, len(rows_U))
        self._memory.add(self._table, rows_U, stream)
        steps_U = torch.full_like(rows_U, step)
        self._count(rows_U, stream.counts_U, stream.prompt_counts_U, steps_U, steps_U)

    def merge(self, other: RewardHistory) -> None:
        """Add another history of the same kind, as if its rewards had come later.

        The result equals one history that received both streams of rewards, up to float64 rounding. For the
        variance components this holds if no prompt has rewards in both. A `cumulative` history does not
        depend on the order.
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
        """The number of rewards received, including those no longer remembered; 0 for an unknown preference
        group.
        """
        return int(self.lookup([preference_group]).count_N)

    def mean(self, preference_group: str) -> float:
        """The mean reward. Raises KeyError for a preference group without rewards."""
        return float(self._known(preference_group).mean_N)

    def std(self, preference_group: str) -> float:
        """The sample standard deviation; 0 for a single reward. Raises KeyError if there is no reward."""
        return float(self._known(preference_group).std_N)

    def lookup(self, preference_groups_N: Sequence[str]) -> HistoryLookup:
        """The statistics of each element's preference group; zeros for one without rewards."""
        distinct, sets_N = numbered(preference_groups_N)
        rows_K = self._table.rows(distinct)
        known_K = rows_K >= 0
        moments = self._memory.read(self._table, rows_K[known_K])

        def expand(values: Tensor) -> Tensor:
            padded_K = torch.zeros(len(rows_K), dtype=values.dtype)
            padded_K[known_K] = values
            return padded_K[sets_N]

        return HistoryLookup(
            count_N=expand(self._table.read("n", rows_K[known_K])),
            effective_n_N=expand(moments.effective_n),
            mean_N=expand(moments.mean),
            std_N=expand(moments.std),
            within_variance_N=expand(moments.within_variance),
            between_variance_N=expand(moments.between_variance),
        )

    def stats(self, preference_groups: Iterable[str] | None = None) -> dict[str, GroupStats]:
        """The statistics of `preference_groups`, without those that have no rewards; None: of all, in order
        of first appearance.
        """
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
        """The `count` preference groups with the most rewards, most first; ties by first appearance."""
        n_K = self._table.read("n", self._table.all_rows())
        names = self.preference_groups
        return [names[row] for row in n_K.argsort(descending=True, stable=True)[:count].tolist()]

    def state_dict(self) -> dict[str, Any]:
        """The whole history: its settings as JSON values, and its tensors under `columns`."""
        columns = self._table.state_dict()
        self._memory.to_disk(self._table, columns)
        limit = {} if self.winsorize is None else {"winsorize": self.winsorize}
        return {"version": _VERSION, **self._signature, **limit, "columns": columns}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace the contents, not `winsorize`. Raises CheckpointError, without a change, if `state` is
        damaged or of another kind.
        """
        expected = {"version": _VERSION, **self._signature}
        saved = {key: state.get(key) for key in expected}
        if saved != expected:
            raise CheckpointError(
                f"the saved reward history is one of {saved}, this run needs one of {expected}",
                remedy="Set `history.kind` to what the run was started with, or start over with --fresh.",
            )
        try:
            columns = dict(state["columns"])
            self._memory.from_disk(columns)
            self._table.load_state_dict(columns)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the saved reward history is damaged: {error}") from error

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> RewardHistory:
        """A new history of the kind that was saved, with its contents."""
        try:
            settings = {key: state[key] for key in ("kind", "decay", "window")}
            history = cls(**settings, winsorize=state.get("winsorize"))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the saved reward history is damaged: {error!r}") from error
        history.load_state_dict(state)
        return history

    @property
    def _signature(self) -> dict[str, Any]:
        return {"kind": self.kind, "decay": self.decay, "window": self.window}

    def _known(self, preference_group: str) -> HistoryLookup:
        if preference_group not in self._table:
            # Only among the most frequent ones: a search among a million names takes seconds.
            near = nearest(preference_group, self.most_seen(1000))
            hint = f"; did you mean {near!r}?" if near else ""
            raise KeyError(f"no rewards of preference group {preference_group!r} yet{hint}")
        return self.lookup([preference_group])

    def _count(self, rows_U: Tensor, n_U: Tensor, prompts_U: Tensor, first_U: Tensor, last_U: Tensor) -> None:
        """Update the counters of `rows_U`. The arguments are in the order of `_COUNTERS`."""
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
    """The memory of a kind of history. Raises ValueError for a missing, unused or impossible setting."""
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
