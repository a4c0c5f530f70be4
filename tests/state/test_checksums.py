"""Checksums of a folder: what changed is named, and a list of someone else's reads nothing outside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.paths import sha256
from pgrpo_cli.state.checksums import damage, sha256_of_code, write_checksums

NEEDED = ("adapter_config.json", "adapter_model.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NEEDED:
        (tmp_path / name).write_text(name)
    (tmp_path / "README.md").write_text("card")
    write_checksums(tmp_path)
    return tmp_path


def test_a_whole_folder_and_one_whose_card_was_changed(folder: Path) -> None:
    assert json.loads((folder / "checksums.json").read_text()).keys() == set(NEEDED)
    assert damage(folder, NEEDED) is None
    (folder / "README.md").write_text("my card")
    assert damage(folder, NEEDED) is None


@pytest.mark.parametrize("name", NEEDED)
def test_a_changed_and_a_missing_file_are_named(folder: Path, name: str) -> None:
    (folder / name).write_text("other")
    assert damage(folder, NEEDED) == f"{name} has changed"
    (folder / name).unlink()
    assert damage(folder, NEEDED) == f"{name} is missing"


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../adapter_config.json",
        "x/../adapter_config.json",
        "other",
        "trl/../x",
        "trl/a/..",
        "trl/",
        "trl//x",
    ],
)
def test_nothing_outside_the_folder_is_read(folder: Path, name: str) -> None:
    sums = json.loads((folder / "checksums.json").read_text())
    (folder / "checksums.json").write_text(json.dumps({**sums, name: "a"}))
    assert damage(folder, NEEDED) == f"checksums.json names {name!r}, which is not a file of a checkpoint"


def test_files_of_trl_lie_in_a_folder_of_their_own_and_count_too(folder: Path) -> None:
    (folder / "trl" / "shards").mkdir(parents=True)
    for name in ("trl/optimizer.pt", "trl/shards/.metadata"):
        (folder / name).write_text("x")
    (folder / "checksums.json").unlink()
    write_checksums(folder)
    assert damage(folder, NEEDED) is None
    (folder / "trl" / "shards" / ".metadata").write_text("y")
    assert damage(folder, NEEDED) == "trl/shards/.metadata has changed"


@pytest.mark.parametrize("content", [[], "text", 3, None, {}, {NEEDED[0]: 3}])
def test_another_shape_is_damage(folder: Path, content: Any) -> None:
    (folder / "checksums.json").write_text(json.dumps(content))
    assert damage(folder, NEEDED)


def test_code_is_known_by_what_it_imports_from_its_folder_too(tmp_path: Path) -> None:
    code, near, other = (tmp_path / name for name in ("mine.py", "near.py", "other.py"))
    code.write_text("def reward(): ...")
    near.write_text("VALUE = 1")
    assert sha256_of_code(code) == sha256(code)
    code.write_text("import near\ndef reward(): ...")
    before = sha256_of_code(code)
    other.write_text("VALUE = 1")
    assert sha256_of_code(code) == before != sha256(code)
    near.write_text("VALUE = 2")
    assert sha256_of_code(code) != before
