"""What a run depends on: told by contents, whatever it is called and wherever it lies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.errors import RunError
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.state.fingerprint import (
    Fingerprint,
    fingerprint_of,
    read_fingerprint,
    sampled_sha256,
    settle,
    versions,
)
from pgrpo_cli.state.run import RunDirectory
from tests.support.runs import make_run, recipe_of

CODE = {"type": "python", "file": "mine.py"}
TASTE = {"type": "taste", "path": "taste.jsonl"}


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """One with a reward's file and a model of this machine."""
    (tmp_path / "mine.py").write_text("one")
    (tmp_path / "taste.jsonl").write_text("one")
    (tmp_path / "model").mkdir()
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja", "notes.txt"):
        (tmp_path / "model" / name).write_text(name)
    return recipe_of(model__id="./model", rewards=[CODE, TASTE])


def of(run: RunDirectory, recipe: Recipe, folder: Path) -> dict[str, str]:
    return fingerprint_of(run, recipe.model, recipe.rewards, folder).parts


CHANGES = {
    "mine.py": ["rewards.0.file"],
    "taste.jsonl": ["rewards.1.path"],
    "model/model.safetensors": ["model.id"],
    "model/config.json": ["model.id"],
    "model/tokenizer.json": ["model.id, tokenizer"],
    "model/chat_template.jinja": ["model.id, tokenizer"],
    "model/notes.txt": [],
}


@pytest.mark.parametrize(("name", "parts"), CHANGES.items())
def test_what_changes_is_named(name: str, parts: list[str], recipe: Recipe, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", recipe)
    before = of(run, recipe, tmp_path)
    (tmp_path / name).write_text("another")
    after = of(run, recipe, tmp_path)
    assert [part for part in before if before[part] != after[part]] == parts
    assert before.keys() == {"data", "model.id", "model.id, tokenizer", "rewards.0.file", "rewards.1.path"}


def test_other_data_are_another_part(recipe: Recipe, tmp_path: Path) -> None:
    one = of(make_run(tmp_path / "one", recipe, data_hash="a"), recipe, tmp_path)
    two = of(make_run(tmp_path / "two", recipe, data_hash="b"), recipe, tmp_path)
    assert [part for part in one if one[part] != two[part]] == ["data"]


def test_a_copy_elsewhere_is_the_same(recipe: Recipe, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", recipe)
    before = of(run, recipe, tmp_path)
    copy = Path(
        shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}-copy"), copy_function=shutil.copy)
    )
    (copy / "run").rename(copy / "renamed")
    assert of(RunDirectory(copy / "renamed"), recipe, copy) == before


def test_the_commit_of_a_hubs_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(model__id="owner/name")
    cached = tmp_path / "models--owner--name" / "snapshots" / "abc123" / "config.json"
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: str(cached))
    assert of(make_run(tmp_path / "run", recipe), recipe, tmp_path)["model.id"] == "commit abc123"


@pytest.mark.parametrize("place", [0, 8, 100_000, 70 << 20, (80 << 20) - 1])
def test_large_weights_are_sampled_at_both_ends_and_between(place: int, tmp_path: Path) -> None:
    # 80 MiB in 256 blocks of 64 KiB: the distance of two is 80 MiB / 255, some 5 blocks; 70 MiB is 223.125
    # distances, a byte of no block; moved to the start of one it is seen.
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.truncate(80 << 20)
    before = sampled_sha256(path)
    if place == 70 << 20:
        place = 223 * ((80 << 20) - (64 << 10)) // 255
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"\x01")
    assert (sampled_sha256(path) == before) == (place == 100_000)


def test_the_header_of_safetensors_is_read_as_a_whole(tmp_path: Path) -> None:
    path, hashes = tmp_path / "model.safetensors", set()
    for byte in (b"\0", b"\1"):
        with path.open("wb") as file:
            # A header of 200,000 bytes; byte 100,000 lies between the first two blocks.
            file.write((200_000).to_bytes(8, "little"))
            file.truncate(80 << 20)
            file.seek(100_000)
            file.write(byte)
        hashes.add(sampled_sha256(path))
    assert len(hashes) == 2


def test_a_size_is_part_of_it(tmp_path: Path) -> None:
    hashes = set()
    for size in (80 << 20, (80 << 20) + 1):
        with (tmp_path / "x.gguf").open("wb") as file:
            file.truncate(size)
        hashes.add(sampled_sha256(tmp_path / "x.gguf"))
    assert len(hashes) == 2


def found(**parts: str) -> Fingerprint:
    return Fingerprint(parts, versions())


def test_the_beginning_and_an_older_run_are_recorded(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert settle(run, found(data="a"), step=4, accept=False) == []
    assert read_fingerprint(run) == found(data="a")
    # A run without a checkpoint begins anew, whatever stood there.
    assert settle(run, found(data="b"), step=None, accept=False) == []
    assert read_fingerprint(run) == found(data="b")


def test_a_change_is_refused_by_name_and_accepted_on_request(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    settle(run, found(data="a", file="b", model="c"), step=None, accept=False)
    before = run.fingerprint_path.read_bytes()
    with pytest.raises(RunError, match=r"from step 4, but .* has changed: file, model\n") as no:
        settle(run, found(data="a", file="x", model="y"), step=4, accept=False)
    assert "--accept-changes" in str(no.value.remedy)
    assert run.fingerprint_path.read_bytes() == before
    told = settle(run, found(data="a", file="x", model="y"), step=4, accept=True)
    assert told == ["from step 4 on the run continues with other file, model"]
    assert read_fingerprint(run).accepted == [{"step": 4, "changed": ["file", "model"]}]  # type: ignore[union-attr]
    assert settle(run, found(data="a", file="x", model="y"), step=6, accept=False) == []


def test_other_versions_are_told_once(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    settle(run, Fingerprint({}, {"torch": "1", "peft": "2"}), step=None, accept=False)
    newer = Fingerprint({}, {"torch": "3", "peft": "2"})
    assert settle(run, newer, step=4, accept=False) == [
        "torch was 1 and is 3: the run continues, but not bit for bit"
    ]
    assert settle(run, newer, step=4, accept=False) == []


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "[" * 100_000, {"version": 2}, {"parts": 3}, {"accepted": None}]
)
def test_a_damaged_one_is_a_message(content: Any, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    settle(run, found(data="a"), step=None, accept=False)
    kept = json.loads(run.fingerprint_path.read_text())
    run.fingerprint_path.write_text(content if isinstance(content, str) else json.dumps({**kept, **content}))
    with pytest.raises(RunError, match=r"fingerprint\.json is damaged"):
        settle(run, found(data="a"), step=4, accept=True)
