"""A run of `engine.type: trl` that was stopped, damaged or prolonged goes on as the native engine's does."""

from __future__ import annotations

import shutil

import pytest

from pgrpo_cli.engines.trl.run_trainer import RunTrainer
from pgrpo_cli.errors import Interrupted
from pgrpo_cli.state.checksums import CHECKSUMS, write_checksums
from pgrpo_cli.verbs.train import train
from tests.support.loop import Watcher
from tests.support.training import metrics, outcome, pgrpo, steps_in, tables, trained, write_tiny

TRL = ("--set", "engine.type=trl")


def _stopped(recipe, run, after):
    train(recipe, run_dir=run, overrides=["engine.type=trl"], callbacks=Watcher(stop_after=after))


def test_a_stopped_run_goes_on_as_one_that_was_not(whole, tmp_path):
    recipe, run = write_tiny(tmp_path), tmp_path / "run"
    with pytest.raises(Interrupted, match="stopped after step 3 of 6"):
        train(recipe, run_dir=run, overrides=["engine.type=trl"], callbacks=Watcher(stop_after=3))
    assert "step-000003" in steps_in(run)
    result = trained(recipe, run, *TRL)
    assert result.stdout.startswith("resumed from step 3\n")
    assert metrics(run) == metrics(whole)
    assert tables(run / "history.sqlite") == tables(whole / "history.sqlite")
    name = "adapter/adapter_model.safetensors"
    assert (run / name).read_bytes() == (whole / name).read_bytes()


def test_a_step_draws_the_same_without_the_state_of_random_numbers(whole, tmp_path):
    """TRL's is that of a process; in another number of processes some of them have none."""
    recipe, run = write_tiny(tmp_path), tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "adapter")
    shutil.rmtree(run / "checkpoints" / "step-000006")
    for path in run.rglob("rng_state*"):
        path.unlink()
    checkpoint = run / "checkpoints" / "step-000004"
    (checkpoint / CHECKSUMS).unlink()
    write_checksums(checkpoint)
    trained(recipe, run, *TRL)
    assert tables(run / "history.sqlite") == tables(whole / "history.sqlite")
    assert metrics(run) == metrics(whole)


def test_a_damaged_checkpoint_of_trls_falls_back_to_the_one_before(whole, tmp_path):
    recipe, run = write_tiny(tmp_path), tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "adapter")
    (run / "checkpoints" / "step-000006" / "trl" / "optimizer.pt").write_bytes(b"torn")
    result = trained(recipe, run, *TRL)
    assert "trl/optimizer.pt has changed" in result.stderr
    assert result.stdout.startswith("resumed from step 4\n")
    assert metrics(run) == metrics(whole)


@pytest.mark.parametrize("damaged", ["step-000006/adapter_model.safetensors", None])
def test_the_finished_adapter_is_that_of_the_last_step(whole, tmp_path, damaged):
    """A checkpoint that was set aside, and a folder of the user's, come behind it by name."""
    recipe, run = write_tiny(tmp_path), tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "adapter")
    if damaged:
        path = run / "checkpoints" / damaged
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        shutil.copytree(run / "checkpoints" / "step-000002", run / "checkpoints" / "step-000099-mine")
    trained(recipe, run, *TRL)
    assert len(steps_in(run)) == 4
    name = "adapter/adapter_model.safetensors"
    assert (run / name).read_bytes() == (whole / name).read_bytes()


def test_a_run_whose_adapter_is_missing_is_finished_from_its_last_checkpoint(whole, tmp_path):
    recipe, run = write_tiny(tmp_path), tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "adapter")
    trained(recipe, run, *TRL)
    name = "adapter/adapter_model.safetensors"
    assert (run / name).read_bytes() == (whole / name).read_bytes()


def test_more_steps_continue_a_finished_run(whole, tmp_path, monkeypatch):
    recipe, run, used = write_tiny(tmp_path), tmp_path / "run", []
    update = RunTrainer.training_step

    def noted(self, *arguments):
        used.append(self.optimizer.param_groups[0]["lr"])
        return update(self, *arguments)

    monkeypatch.setattr(RunTrainer, "training_step", noted)
    shutil.copytree(whole, run)
    trained(recipe, run, *TRL, "--set", "train.steps=8")
    assert [line["step"] for line in metrics(run)] == list(range(1, 9))
    assert metrics(run)[:6] == metrics(whole)
    # From its first step on, the learning rate is that of a run of eight steps.
    recorded = [line["learning_rate"] for line in metrics(run)[6:]]
    assert used == pytest.approx(recorded, rel=1e-12) and recorded[0] > metrics(whole)[-1]["learning_rate"]


def test_the_engine_of_a_run_cannot_change(whole, tmp_path):
    recipe, run = write_tiny(tmp_path), tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "adapter")
    result = pgrpo("train", recipe, "--run-dir", run)
    assert result.exit_code == 2 and "engine.type: 'trl' in the run, 'native' in the recipe" in result.stderr


class InTraining(Watcher):
    """Asks for a stop once the completions of step 3 are scored."""

    def stop_requested(self):
        return (3, "training") in self.events


def test_a_stop_in_the_update_lets_no_other_step_begin(tmp_path):
    recipe, watcher = write_tiny(tmp_path), InTraining()
    with pytest.raises(Interrupted, match="stopped after step 3 of 6"):
        train(recipe, run_dir=tmp_path / "run", overrides=["engine.type=trl"], callbacks=watcher)
    assert (4, "rollout") not in watcher.events


def test_a_kl_penalty_is_to_the_base_model_also_after_a_stop(tmp_path, monkeypatch):
    names = []
    keep = RunTrainer._keep_adapter

    def kept(self, adapter):
        keep(self, adapter)
        names.append(sorted(self.model.peft_config))

    monkeypatch.setattr(RunTrainer, "_keep_adapter", kept)
    recipe, run = write_tiny(tmp_path, loss={"beta": 0.1}), tmp_path / "run"
    with pytest.raises(Interrupted):
        _stopped(recipe, run, after=4)
    trained(recipe, run, *TRL)
    # A new adapter is zero; later ones move away from the base model.
    kl = [line["kl"] for line in metrics(run)]
    assert kl[0] == pytest.approx(0, abs=1e-6) and min(kl[2:]) > kl[0]
    assert names == [["default"]] * 2
    assert {path.name for path in (run / "adapter").iterdir()} >= {"adapter_model.safetensors"}


FAILS = """
import os
from pathlib import Path

steps = 0

def reward(completions, **_):
    global steps
    steps += 1
    if steps == 4 and Path(__file__).with_name("down").exists():
        raise ValueError("down")
    return [len(completion) for completion in completions]
"""


def test_after_a_reward_that_fails_the_last_finished_step_is_saved(tmp_path):
    (tmp_path / "reward.py").write_text(FAILS)
    rewards = [{"type": "python", "file": "reward.py", "function": "reward"}]
    recipe = write_tiny(tmp_path, rewards=rewards)
    trained(recipe, tmp_path / "whole", "--allow-code", *TRL)
    (tmp_path / "down").touch()
    result = pgrpo("train", recipe, "--run-dir", tmp_path / "run", "--allow-code", *TRL)
    assert result.exit_code == 1 and "down" in result.stderr
    # Step 3 is saved although its turn has not come.
    assert steps_in(tmp_path / "run") == ["step-000002", "step-000003"]
    (tmp_path / "down").unlink()
    result = trained(recipe, tmp_path / "run", "--allow-code", *TRL)
    assert result.stdout.startswith("resumed from step 3\n")
    run, whole = outcome(tmp_path / "run"), outcome(tmp_path / "whole")
    kept, expected = run.pop("checkpoints"), whole.pop("checkpoints")
    assert run == whole
    last = [name for name in kept if name.startswith("step-000006/") and "trainer_state" not in name]
    assert len(last) > 12 and all(kept[name] == expected[name] for name in last if "checksums" not in name)


@pytest.mark.parametrize(("step", "saved"), [(1, []), (3, ["step-000002"])])
def test_a_reward_that_fails_where_all_is_saved_leaves_it_as_it_is(tmp_path, step, saved):
    (tmp_path / "reward.py").write_text(FAILS.replace("steps == 4", f"steps == {step}"))
    (tmp_path / "down").touch()
    rewards = [{"type": "python", "file": "reward.py", "function": "reward"}]
    recipe = write_tiny(tmp_path, rewards=rewards)
    result = pgrpo("train", recipe, "--run-dir", tmp_path / "run", "--allow-code", *TRL)
    assert result.exit_code == 1 and "down" in result.stderr
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoints/*")) == saved


def test_the_adapter_is_not_that_of_a_checkpoint_that_was_set_aside(whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "adapter")
    (run / "checkpoints" / "step-000006" / "trainer.json").write_text("{")
    recipe = write_tiny(tmp_path)
    assert "damaged" in trained(recipe, run, *TRL).stderr
    assert "step-000006.damaged-1" in steps_in(run)
    damaged, new = (run / "checkpoints" / f"step-000006{end}" for end in (".damaged-1", ""))
    name = "adapter_model.safetensors"
    (damaged / name).write_bytes(b"cut")
    shutil.rmtree(run / "adapter")
    trained(recipe, run, *TRL)
    assert (run / "adapter" / name).read_bytes() == (new / name).read_bytes()
