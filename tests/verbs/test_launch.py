"""The commands that are printed: they train the run again, in as many processes, wherever they are run."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgrpo_cli.state.run import RunDirectory
from pgrpo_cli.verbs.launch import command_of, idle_sentence, train_words
from tests.support.runs import recipe_of

RECIPE = Path("my recipe.yaml")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def words(**options):
    return train_words(RECIPE, RunDirectory(Path("runs/minimal")), recipe_of(), ["a=b c"], **options)


def test_all_options_are_repeated():
    assert words() == ["train", "my recipe.yaml", "--set", "a=b c"]
    found = train_words(
        RECIPE, RunDirectory(Path("elsewhere")), recipe_of(), [],
        allow_code=True, force=True, allowed_hosts=["judge"], device="cpu",
    )  # fmt: skip
    assert found[2:] == [
        "--run-dir", "elsewhere", "--allow-code", "--force", "--allow-host", "judge", "--device", "cpu"
    ]  # fmt: skip


def test_a_run_of_one_process_is_resumed_by_pgrpo():
    assert command_of(words()) == "pgrpo train 'my recipe.yaml' --set 'a=b c'"


def test_a_run_of_several_processes_is_resumed_by_as_many(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert command_of(words()) == (
        "PYTHONSAFEPATH=1 torchrun --nproc_per_node 4 -m pgrpo_cli train 'my recipe.yaml' --set 'a=b c'"
    )


def test_idle_devices_are_told_of_with_the_command_that_uses_them(monkeypatch):
    native, trl = recipe_of(), recipe_of(engine__type="trl")
    assert idle_sentence(1, words(), trl) is None
    said = idle_sentence(4, words(), native)
    assert said.endswith(
        "PYTHONSAFEPATH=1 torchrun --nproc_per_node 4 -m pgrpo_cli train 'my recipe.yaml' --set 'a=b c' "
        "--set engine.type=trl"
    )
    assert idle_sentence(4, words(), trl).count("engine.type") == 0
    monkeypatch.setenv("RANK", "0")
    assert idle_sentence(4, words(), trl) is None
