"""Reward histories for tests: what they hold, so that == compares it bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pgrpo_cli.algo.history import RewardHistory


def contents(history: RewardHistory) -> dict[str, Any]:
    """The state of a history."""
    return comparable(history.state_dict())


def comparable(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state whose tensors are type, shape and bytes."""
    return {**state, "columns": {name: _bytes(column) for name, column in state["columns"].items()}}


def _bytes(tensor: Tensor) -> tuple[str, tuple[int, ...], bytes]:
    return str(tensor.dtype), tuple(tensor.shape), tensor.numpy().tobytes()
