"""A run trained on TRL may come from a stranger: nothing in its checkpoints is executed."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from pgrpo_cli.engines.trl.run_trainer import RunTrainer
from pgrpo_cli.state.checkpoint import ENGINE
from pgrpo_cli.state.checksums import CHECKSUMS, write_checksums
from tests.support.training import pgrpo, trained, write_tiny

TRL = ("--set", "engine.type=trl")
READ = ("optimizer.pt", "scheduler.pt")
"""Pickles that TRL reads again."""
NEVER_READ = (
    "training_args.bin", "scaler.pt", "rng_state.pth", "pytorch_model.bin", "adapter_model.bin",
    "pytorch_model_fsdp.bin", "other/adapter_model.bin", "optimizer_0/.metadata",
    "pytorch_model_fsdp_0/.metadata",
)  # fmt: skip


class Trap:
    """Makes a folder when it is unpickled by anything that executes what a pickle names."""

    def __init__(self, sprung: Path) -> None:
        self._sprung = sprung

    def __reduce__(self):
        return Path.mkdir, (self._sprung,)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    recipe = write_tiny(folder)
    trained(recipe, folder / "run", *TRL)
    return folder


@pytest.fixture
def run(whole, tmp_path):
    """A run that has yet to make its last two of six steps."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    run = tmp_path / "run"
    shutil.rmtree(run / "adapter")
    shutil.rmtree(run / "checkpoints" / "step-000006")
    return run


def set_trap(run, name, step=4):
    """A pickle that executes, under that name in a checkpoint whose checksums are right."""
    checkpoint = run / "checkpoints" / f"step-{step:06d}"
    path = checkpoint / ENGINE / name
    path.parent.mkdir(exist_ok=True)
    trap = Trap(run.parent / "sprung")
    if path.suffix in (".pt", ".pth", ".bin"):
        torch.save(trap, path)
    else:
        path.write_bytes(pickle.dumps(trap))
    sum_up(checkpoint)


def sum_up(checkpoint):
    """Checksums that a stranger has made right."""
    (checkpoint / CHECKSUMS).unlink()
    write_checksums(checkpoint)


def resumed(run):
    result = pgrpo("train", run.parent / "tiny.yaml", "--run-dir", run, *TRL)
    assert "is damaged" not in result.stderr
    assert not (run.parent / "sprung").exists()
    return result


def test_the_trap_works(run):
    set_trap(run, "optimizer.pt")
    path = run / "checkpoints" / "step-000004" / ENGINE / "optimizer.pt"
    torch.load(path, weights_only=False)
    assert (run.parent / "sprung").is_dir()


@pytest.mark.parametrize("name", READ)
def test_what_trl_reads_again_is_refused_with_its_place(run, name):
    set_trap(run, name)
    result = resumed(run)
    assert result.exit_code == 1
    assert "step-000004 contains a pickle with code in it, or a damaged one" in result.stderr
    assert "Move that folder away" in result.stderr and "weights_only" not in result.stderr


@pytest.mark.parametrize("name", NEVER_READ)
def test_what_a_run_does_not_write_is_not_read(run, name):
    set_trap(run, name)
    result = resumed(run)
    assert result.exit_code == 0, result.stderr


def test_the_state_of_trls_trainer_is_json_of_the_checkpoints_own_step(run):
    set_trap(run, "trainer_state.json")
    result = resumed(run)
    assert result.exit_code == 1 and "cannot be resumed from" in result.stderr
    checkpoints = run / "checkpoints"
    for step in (2, 4):
        other = json.loads((checkpoints / "step-000002" / ENGINE / "trainer_state.json").read_text())
        (checkpoints / "step-000004" / ENGINE / "trainer_state.json").write_text(
            json.dumps({**other, "global_step": step})
        )
        sum_up(checkpoints / "step-000004")
        result = resumed(run)
        if step == 2:
            assert result.exit_code == 1 and "trainer_state.json is that of update 2" in result.stderr
    assert result.exit_code == 0, result.stderr


def test_a_run_does_not_write_the_arguments_as_a_pickle(whole):
    assert not list((whole / "run").rglob("training_args.bin"))


def test_the_adapter_is_read_from_the_runs_own_files(whole, run):
    """TRL would load any adapter that it finds in its folder, with the configuration that lies beside it."""
    checkpoints, name = run / "checkpoints", "adapter_model.safetensors"
    engine = checkpoints / "step-000004" / ENGINE
    (engine / "other").mkdir()
    for place in (engine, engine / "other"):
        shutil.copy(checkpoints / "step-000002" / name, place)
    config = json.loads((engine / "adapter_config.json").read_text())
    (engine / "other" / "adapter_config.json").write_text(json.dumps({**config, "r": 1}))
    sum_up(engine.parent)
    assert resumed(run).exit_code == 0
    assert (run / "adapter" / name).read_bytes() == (whole / "run" / "adapter" / name).read_bytes()


def test_other_verbs_read_nothing_of_trls(whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    run = tmp_path / "run"
    for path in (run / "checkpoints" / "step-000006" / ENGINE).iterdir():
        set_trap(run, path.name, step=6)
    for name in (*READ, *NEVER_READ):
        set_trap(run, name, step=6)
    for words in (
        ("doctor", run),
        ("groups", run),
        ("eval", run, "--checkpoint", 6),
        ("eval", run),
        ("chat", run, "--as", "often", "--once", "often 1"),
        ("export", run, "--to", "adapter"),
        ("train", tmp_path / "tiny.yaml", "--run-dir", run, *TRL),
    ):
        result = pgrpo(*words)
        assert result.exit_code == 0, (words, result.stderr)
        assert not (tmp_path / "sprung").exists(), words


@pytest.mark.parametrize("engine", ["is_fsdp_enabled", "is_deepspeed_enabled"])
def test_engines_that_execute_what_a_checkpoint_names_need_leave(run, monkeypatch, engine):
    build = RunTrainer.__init__

    def as_if_sharded(self, **arguments):
        build(self, **arguments)
        setattr(self, engine, True)

    monkeypatch.setattr(RunTrainer, "__init__", as_if_sharded)
    result = resumed(run)
    assert result.exit_code == 2
    assert "can execute code that a checkpoint names" in result.stderr and "--allow-code" in result.stderr
