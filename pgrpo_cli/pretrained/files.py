"""Checks of a model's files before they are read: they must be complete, and weights safetensors or GGUF."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pgrpo_cli.errors import ModelError

from .location import CONFIG, INDEX, SETTINGS, WEIGHTS, Location, first_line

_POINTER = b"version https://git-lfs"
_AGAIN = "Copy or download the file again."


def check_settings(at: Location, names: Iterable[str] = SETTINGS) -> Path:
    """The folder of the model, after its settings files have been checked. Raises ModelError."""
    folder = at.files()
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{at.where}: {folder} has an adapter_config.json: transformers would load that adapter, unseen",
            remedy="Merge the adapter into the model, or remove that file.",
        )
    if at.gguf_file:
        _check_gguf(at, folder / at.gguf_file)
        return folder
    if not (folder / CONFIG).is_file():
        raise ModelError(
            f"{at.where}: the folder {folder} has no {CONFIG}",
            remedy="Give a folder that transformers' save_pretrained wrote, or a .gguf file.",
        )
    for name in names:
        if (folder / name).is_file():
            refuse_pointer(at, folder / name)
            if name.endswith(".json"):
                _read_json(at, folder / name)
    return folder


def check_weights(at: Location) -> Path:
    """The folder of the model, after its settings and weights have been checked. Raises ModelError."""
    folder = check_settings(at)
    if at.gguf_file:
        return folder
    shards = _shards(at, folder)
    folder = at.with_weights(shards)
    for name in shards:
        if not (folder / name).is_file():
            raise ModelError(
                f"{at.where}: {folder} lacks {name}" + _instead(folder),
                remedy="Weights are loaded from safetensors or GGUF, never from pickled files (.bin, .pt). "
                "Copy or download what is missing.",
            )
        check_safetensors(at, folder / name)
    return folder


def check_safetensors(at: Location, path: Path) -> None:
    """Raise ModelError for a file that is not a complete safetensors file."""
    from safetensors import SafetensorError, safe_open

    refuse_pointer(at, path)
    try:
        # Reads the header and compares it with the size of the file.
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{at.where}: {path} is incomplete or no safetensors file: {first_line(error)}", remedy=_AGAIN
        ) from error


def refuse_pointer(at: Location, path: Path) -> None:
    """Raise ModelError for a pointer of Git LFS, which git leaves if the file itself was not fetched."""
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise ModelError(
                f"{at.where}: {path} is a Git LFS pointer: the file itself was not fetched",
                remedy="Run `git lfs pull` in that folder, or download the file again.",
            )


def _check_gguf(at: Location, path: Path) -> None:
    refuse_pointer(at, path)
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelError(f"{at.where}: {path} is no GGUF file", remedy=_AGAIN)


def _shards(at: Location, folder: Path) -> list[str]:
    """Names of the files with weights: the one that there is by default, or those that the index lists."""
    if (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file():
        return [WEIGHTS]
    index = _read_json(at, folder / INDEX)
    listed = index.get("weight_map") if isinstance(index, dict) else None
    names = sorted(set(map(str, listed.values()))) if isinstance(listed, dict) else []
    if not names:
        raise ModelError(f"{at.where}: {folder / INDEX} lists no weights", remedy=_AGAIN)
    for name in names:
        # A name alone: nothing outside of the folder is read, whatever the index says.
        if not name.endswith(".safetensors") or "/" in name or "\\" in name or ".." in name:
            raise ModelError(
                f"{at.where}: {folder / INDEX} names {name!r}; a file of weights is NAME.safetensors in the "
                "same folder",
                remedy="Save the model again with safetensors, or name another one.",
            )
    return names


def _instead(folder: Path) -> str:
    pickled = sorted(path.name for end in ("*.bin", "*.pt", "*.pth") for path in folder.glob(end))
    return f", and has pickled weights ({pickled[0]})" if pickled else ""


def _read_json(at: Location, path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{at.where}: {path} is incomplete or no JSON: {first_line(error)}", remedy=_AGAIN
        ) from error
