"""data/manifest.json: what prepared data were made from, and the SHA-256 of every file of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgrpo_cli.errors import DataError
from pgrpo_cli.paths import sha256

from .strict_json import read_json

MANIFEST = "manifest.json"
REJECTED = "rejected.jsonl"
CLUSTERS = "preference_groups.json"
MANIFEST_VERSION = 2
SPLITS = ("train", "eval")
# All that data/ holds. A manifest that names anything else would have us read it.
OURS = re.compile(
    rf"({'|'.join(SPLITS)})(/(data-\d+-of-\d+\.arrow|dataset_info\.json|state\.json))?"
    rf"|{re.escape(MANIFEST)}|{re.escape(REJECTED)}|{re.escape(CLUSTERS)}"
)
PREPARE_AGAIN = "Run `pgrpo prepare` with the run's recipe again; it writes the same data."


def read_manifest(run_dir: Path) -> dict[str, Any] | None:
    """The manifest of data/, or None where nothing is prepared. Raises DataError where it cannot be read."""
    path = run_dir / "data" / MANIFEST
    try:
        manifest = read_json(path)
        version = manifest["version"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read: {error}", remedy=PREPARE_AGAIN) from error
    if version != MANIFEST_VERSION:
        raise DataError(f"{path} has version {version}, known is {MANIFEST_VERSION}", remedy=PREPARE_AGAIN)
    wrong = _wrong(manifest)
    if wrong is not None:
        raise DataError(f"{path} is damaged: {wrong}", remedy=PREPARE_AGAIN)
    return dict(manifest)


def _wrong(manifest: Mapping[str, Any]) -> str | None:
    """What in a manifest is not as it was written; the parts that nothing relies on are not checked."""
    files, groups = manifest.get("files"), manifest.get("preference_groups", {})
    if not isinstance(files, dict) or not isinstance(manifest.get("data_hash"), str):
        return "it lacks the hashes of files"
    for name in files:
        if not OURS.fullmatch(name):
            return f"it names {name!r}, which is no file of prepared data"
    if not isinstance(groups, dict) or not all(map(_counts, groups.values())):
        return "its counts of preference groups are none"
    return None


def _counts(found: Any) -> bool:
    return isinstance(found, dict) and all(type(found.get(split)) is int for split in SPLITS)


def verify(run_dir: Path, manifest: Mapping[str, Any], under: str = "") -> None:
    """Compare the files of data/ whose names start with `under` with the manifest. Raises DataError."""
    for name, expected in manifest["files"].items():
        if not name.startswith(under):
            continue
        path = run_dir / "data" / name
        try:
            found = sha256(path)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}", remedy=PREPARE_AGAIN) from error
        if found != expected:
            raise DataError(
                f"{path} is not what `pgrpo prepare` wrote: "
                f"its SHA-256 begins with {found[:12]}, the manifest has {str(expected)[:12]}",
                remedy=PREPARE_AGAIN,
            )
