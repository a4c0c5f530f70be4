"""The manifest of prepared data: another than `prepare` wrote is a message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.data.manifest import MANIFEST_VERSION, read_manifest
from pgrpo_cli.errors import DataError

WHOLE: dict[str, Any] = {
    "version": MANIFEST_VERSION,
    "files": {"train/data-00000-of-00001.arrow": "a" * 64, "rejected.jsonl": "b" * 64},
    "data_hash": "c" * 64,
    "preference_groups": {"calm": {"train": 3, "eval": 1}},
}


def write(run: Path, content: Any) -> None:
    (run / "data").mkdir(exist_ok=True)
    (run / "data" / "manifest.json").write_text(content if isinstance(content, str) else json.dumps(content))


def test_a_whole_one_is_read_and_none_is_none(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    write(tmp_path, WHOLE)
    assert read_manifest(tmp_path) == WHOLE


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../recipe.yaml", "train/../../x", "train/other.arrow", "", "eval/state.json/x"]
)
def test_a_name_outside_the_data_is_refused(name: str, tmp_path: Path) -> None:
    write(tmp_path, {**WHOLE, "files": {name: "a"}})
    with pytest.raises(DataError, match="is no file of prepared data"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "3", "[" * 100_000, {"version": MANIFEST_VERSION},
        {**WHOLE, "files": []},
        {**WHOLE, "data_hash": 3},
        {**WHOLE, "preference_groups": []},
        {**WHOLE, "preference_groups": {"calm": 3}},
        {**WHOLE, "preference_groups": {"calm": {"train": "3", "eval": 1}}},
        {**WHOLE, "preference_groups": {"calm": {"train": True, "eval": 1}}},
    ],
)  # fmt: skip
def test_what_is_no_manifest_is_a_message(content: Any, tmp_path: Path) -> None:
    write(tmp_path, content)
    with pytest.raises(DataError, match=r"manifest\.json (cannot be read|is damaged)"):
        read_manifest(tmp_path)
