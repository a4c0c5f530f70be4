"""A reward history as two files of a folder, and as a checksum.

    NAME.json          the kind of the history, in values of JSON
    NAME.safetensors   its preference groups and their numbers

A checkpoint of a run has `history.*`, and `part_history.*` where each part of the rewards is normalised by
itself. A checkpoint of a user's own TRL script has the same files under names of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgrpo_cli.data.strict_json import read_json

from .files import write_json

COLUMNS = "columns"
"""The key of a history's `state_dict` that has its tensors."""


def save_history(state: Mapping[str, Any], folder: Path, name: str) -> None:
    """Write the `state_dict` of a history to the two files of that name."""
    from safetensors.torch import save_file

    write_json(folder / f"{name}.json", _settings(state))
    save_file(state[COLUMNS], folder / f"{name}.safetensors")


def load_history(folder: Path, name: str) -> dict[str, Any]:
    """The state for `load_state_dict`. Raises OSError, ValueError or SafetensorError."""
    from safetensors.torch import load_file

    settings = read_json(folder / f"{name}.json")
    return {**settings, COLUMNS: load_file(folder / f"{name}.safetensors")}


def history_checksum(state: Mapping[str, Any]) -> str:
    """SHA-256 of a history's settings, preference groups and numbers: equal only if all of them are."""
    digest = hashlib.sha256(json.dumps(_settings(state), sort_keys=True).encode())
    for name, column in sorted(state[COLUMNS].items()):
        digest.update(f"\n{name} {column.dtype} {tuple(column.shape)}\n".encode())
        digest.update(column.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _settings(state: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key != COLUMNS}
