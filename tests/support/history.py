"""Reward histories for tests: what they hold, so that == compares it bit for bit; completions of a store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pgrpo_cli.algo.history import RewardHistory
from pgrpo_cli.state.history_store import decode_parts, read_latest


def contents(history: RewardHistory) -> dict[str, Any]:
    """The state of a history."""
    return comparable(history.state_dict())


def comparable(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state whose tensors are type, shape and bytes."""
    return {**state, "columns": {name: _bytes(column) for name, column in state["columns"].items()}}


def _bytes(tensor: Tensor) -> tuple[str, tuple[int, ...], bytes]:
    return str(tensor.dtype), tuple(tensor.shape), tensor.numpy().tobytes()


def read_completions(path: Path, *, preference_group: str | None = None) -> list[dict[str, Any]]:
    """All scored completions of a store in order of training, as dictionaries with decoded parts."""
    rows, _ = read_latest(path, 1 << 40)
    return [
        {**vars(row), "parts": decode_parts(row.parts)}
        for row in rows
        if preference_group in (None, row.preference_group)
    ]
