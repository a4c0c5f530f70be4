"""Rewards of different scales: each part is normalised by its own history, then weighted and summed.

A part is one reward of a recipe, named by its label. The order of operations is that of GDPO (arXiv
2601.05242, equations 4 and 5), with any estimator for the normalisation of a part. GDPO's normalisation over
the batch (equation 6) is an option. A part that does not apply to a completion is absent from the
completion's mapping. A part that could not be computed is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from .advantages import clipped, compute_advantages
from .estimators import Estimator, resolve_estimator
from .history import RewardHistory
from .types import Advantages, GroupStats

_SEPARATOR = "/"
_ROWS_AT_ONCE = 10_000


class PartHistory:
    """A reward history for each pair of a part and a preference group, and the weight of each part.

    `history` must be empty and may be of any kind. Its keys are "label/preference group". A label must not
    contain a slash (ValueError), so that the first slash of a key always ends the label.
    """

    def __init__(self, weights: Mapping[str, float], history: RewardHistory) -> None:
        slashed = [label for label in weights if _SEPARATOR in label]
        if slashed:
            raise ValueError(f"the label {slashed[0]!r} holds a slash")
        self.weights = dict(weights)
        self.history = history

    @property
    def labels(self) -> tuple[str, ...]:
        """The parts, in the order of the recipe."""
        return tuple(self.weights)

    def keys(self, label: str, preference_groups: Iterable[str]) -> list[str]:
        """The keys in `history` of a part and of preference groups."""
        return [f"{label}{_SEPARATOR}{group}" for group in preference_groups]

    def update(
        self,
        parts_N: Sequence[Mapping[str, float]],
        preference_groups_N: Sequence[str],
        *,
        num_generations: int,
        step: int,
    ) -> None:
        """Add the parts of a step's rewards. Raises the same errors as `RewardHistory.update`."""
        values = [value for label in self.labels for value in _values(parts_N, label)]
        keys = [key for label in self.labels for key in self.keys(label, preference_groups_N)]
        self.history.update(values, keys, num_generations=num_generations, step=step)

    def stats(self, preference_groups: Iterable[str]) -> Iterator[tuple[str, str, GroupStats]]:
        """Yield (preference group, part, statistics) for all pairs with rewards."""
        groups = list(dict.fromkeys(preference_groups))
        yield from self._of([key for label in self.labels for key in self.keys(label, groups)])

    def all_stats(self) -> Iterator[tuple[str, str, GroupStats]]:
        """Like `stats`, for all preference groups. Computed lazily, since there may be many."""
        keys = self.history.preference_groups
        for start in range(0, len(keys), _ROWS_AT_ONCE):
            yield from self._of(keys[start : start + _ROWS_AT_ONCE])

    def _of(self, keys: list[str]) -> Iterator[tuple[str, str, GroupStats]]:
        for key, stats in self.history.stats(keys).items():
            label, _, group = key.partition(_SEPARATOR)
            yield group, label, stats

    def state_dict(self) -> dict[str, Any]:
        """See `RewardHistory.state_dict`."""
        return self.history.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `RewardHistory.load_state_dict`."""
        self.history.load_state_dict(state)


def compute_part_advantages(
    parts_N: Sequence[Mapping[str, float]],
    preference_groups_N: Sequence[str],
    *,
    num_generations: int,
    history: PartHistory,
    estimator: Estimator | str = "pgrpo",
    min_count: int = 0,
    renormalize: bool = False,
    clip: float | None = None,
) -> Advantages:
    """The sum over parts of weight times advantage; each part has advantages of its own
    (`compute_advantages`).

    A part that is missing or does not apply adds 0. A completion is invalid only if all of its parts are
    missing. With `renormalize`, the mean of the sums of the step's valid completions is subtracted, and they
    are divided by their standard deviation (n - 1) plus epsilon; if all are equal they become 0. The results
    are clipped to `clip` (None: not). Baseline and scale are NaN, since a sum of advantages has none.
    """
    if isinstance(estimator, str):
        estimator = resolve_estimator(estimator)
    total_N = torch.zeros(len(parts_N), dtype=torch.float64)
    for label, weight in history.weights.items():
        part = compute_advantages(
            _values(parts_N, label),
            history.keys(label, preference_groups_N),
            num_generations=num_generations,
            history=history.history,
            estimator=estimator,
            min_count=min_count,
        )
        total_N += weight * part.advantages_N.double()
    valid_N = torch.tensor([not parts or not all(map(math.isnan, parts.values())) for parts in parts_N])
    if renormalize:
        total_N = _renormalized(total_N, valid_N, estimator.epsilon)
    undefined_N = torch.full_like(total_N, torch.nan)
    return Advantages(*clipped(total_N, clip), undefined_N, undefined_N, valid_N)


def _values(parts_N: Sequence[Mapping[str, float]], label: str) -> list[float]:
    return [parts.get(label, math.nan) for parts in parts_N]


def _renormalized(total_N: torch.Tensor, valid_N: torch.Tensor, epsilon: float) -> torch.Tensor:
    valid_M = total_N[valid_N]
    std = valid_M.std() if len(valid_M) > 1 else torch.tensor(0.0)
    if std == 0:
        return torch.zeros_like(total_N)
    return torch.where(valid_N, (total_N - valid_M.mean()) / (std + epsilon), 0.0)
