"""Checkpoints: whole or not there, the newest few, readable by others, and equal for equal runs."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import torch

from pgrpo_cli.algo.history import RewardHistory
from pgrpo_cli.errors import CheckpointError, RunError
from pgrpo_cli.histories import RewardHistories
from pgrpo_cli.model.load.from_recipe import load_policy
from pgrpo_cli.model.policy import Policy
from pgrpo_cli.model.update.optimizer import build_optimizer
from pgrpo_cli.recipe.load import load_recipe
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.recipe.training import AdvantageSection, HistorySection
from pgrpo_cli.state import checkpoint as checkpoint_module
from pgrpo_cli.state.adapter import finish_adapter, finished_adapter
from pgrpo_cli.state.checkpoint import (
    Checkpoint,
    TrainingState,
    checkpoint_at,
    latest_checkpoint,
    rewind_checkpoints,
    save_checkpoint,
)
from pgrpo_cli.state.run import RunDirectory
from pgrpo_cli.training import restore, training_state
from tests.support.history import comparable, contents
from tests.support.training import TINY, files_in, write_tiny


def window_of_three() -> RewardHistories:
    return RewardHistories(AdvantageSection(), HistorySection(kind={"type": "window", "size": 3}))


class Setup:
    """A policy, an optimizer and a reward history that have made two steps with made gradients."""

    def __init__(self, folder: Path, **sections: Any) -> None:
        self.folder = folder
        self.recipe: Recipe = load_recipe(write_tiny(folder, **sections))
        self.policy: Policy = load_policy(self.recipe, recipe_dir=folder)
        self.optimizer = build_optimizer(self.policy, self.recipe.train)
        self.histories = window_of_three()
        self.history = self.histories.history
        self.run = RunDirectory(folder / "run")
        self.run.path.mkdir()
        for seed in (1, 2):
            self.step(seed)

    def step(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.policy.trainable.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        self.optimizer.step()
        self.history.update([0.1, 0.2, seed / 3, 1e-300], ["é"] * 3 + [""], num_generations=1, step=seed)

    def save(self, step: int, keep: int = 3) -> Path:
        return save_checkpoint(self.run, step, self.state(), keep=keep)

    def state(self) -> TrainingState:
        return training_state(self.policy, self.optimizer, self.histories)

    def finish(self, card: str, chat_template: str | None = None) -> None:
        finish_adapter(self.run, self.state().adapter, card, chat_template=chat_template)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.run.checkpoints.iterdir())


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def test_weights_optimizer_and_history_come_back_bit_for_bit(setup: Setup) -> None:
    setup.save(2)
    checkpoint, problems = latest_checkpoint(setup.run)
    assert checkpoint is not None
    assert (checkpoint.step, problems) == (2, [])
    assert comparable(checkpoint.history_state()) == contents(setup.history)
    history = RewardHistory.from_state_dict(checkpoint.history_state())
    assert history.stats() == setup.history.stats()
    policy = load_policy(setup.recipe, recipe_dir=setup.folder, adapter=checkpoint.path)
    optimizer = build_optimizer(policy, setup.recipe.train)
    restore(checkpoint, policy, optimizer, window_of_three())
    for name, parameter in setup.policy.trainable.items():
        restored = policy.trainable[name]
        assert torch.equal(parameter, restored)
        ours, theirs = setup.optimizer.state[parameter], optimizer.state[restored]
        assert set(ours) == set(theirs) == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert float(optimizer.state[restored]["step"]) == 2


def test_the_states_of_an_8_bit_optimizer_come_back_bit_for_bit(tmp_path: Path) -> None:
    """bitsandbytes' own class, whose `state_dict` wraps what it quantizes; small parameters keep 32 bits."""
    setup = Setup(
        tmp_path,
        model={**TINY["model"], "random": {"hidden_size": 64, "num_layers": 1, "num_heads": 2}},
        # A of q_proj has 64 x 64 numbers, B of down_proj 64 x 64, B of up_proj 64 x 128: at least 4096 each.
        adapter={"r": 64, "alpha": 64},
        train={**TINY["train"], "optimizer": {"type": "adamw_8bit"}},
    )
    setup.save(2)
    checkpoint, _ = latest_checkpoint(setup.run)
    assert checkpoint is not None
    policy = load_policy(setup.recipe, recipe_dir=tmp_path, adapter=checkpoint.path)
    optimizer = build_optimizer(policy, setup.recipe.train)
    restore(checkpoint, policy, optimizer, window_of_three())
    states = [
        (setup.optimizer.state[parameter], optimizer.state[policy.trainable[name]])
        for name, parameter in setup.policy.trainable.items()
    ]
    assert any(ours["state1"].dtype == torch.uint8 for ours, _ in states)
    for ours, theirs in states:
        assert ours.keys() == theirs.keys()
        assert ours["step"] == theirs["step"] == 2
        for field in ours.keys() - {"step"}:
            assert ours[field].dtype == theirs[field].dtype
            assert torch.equal(ours[field], theirs[field])


def test_the_newest_are_kept(setup: Setup) -> None:
    # As text step-1000000 comes before step-999998.
    for step in (999998, 999999, 1000000, 1000001):
        setup.save(step, keep=2)
    assert setup.names() == ["step-1000000", "step-1000001"]
    assert latest_checkpoint(setup.run)[0].step == 1000001  # type: ignore[union-attr]


def test_one_with_a_file_of_someone_else_is_kept_too(setup: Setup) -> None:
    mine = setup.save(1) / "notes.txt"
    mine.write_text("the best one")
    for step in (2, 3):
        setup.save(step, keep=1)
    assert setup.names() == ["step-000001", "step-000003"]
    assert mine.read_text() == "the best one"


@pytest.mark.parametrize("name", ["step-²", "step-٣", "step-", "step-1x", "step-9"])
def test_what_only_looks_like_a_checkpoint_is_none(setup: Setup, name: str) -> None:
    setup.save(1)
    (setup.run.checkpoints / name).write_text("") if name == "step-9" else (
        setup.run.checkpoints / name
    ).mkdir()
    assert latest_checkpoint(setup.run)[0].step == 1  # type: ignore[union-attr]
    setup.save(2, keep=1)
    assert setup.names() == sorted([name, "step-000002"])


def test_one_that_is_read_is_dropped_only_afterwards(setup: Setup) -> None:
    setup.save(1)
    read, _ = latest_checkpoint(setup.run, held=True)
    assert read is not None and read.holder is not None
    also, _ = latest_checkpoint(setup.run, held=True)
    assert also is not None and also.holder is not None
    also.holder.close()
    setup.save(2, keep=1)
    assert setup.names() == ["step-000001", "step-000002"]
    read.holder.close()
    setup.save(3, keep=1)
    assert setup.names() == ["step-000003"]


def test_one_that_a_run_goes_on_from_is_not_held(setup: Setup) -> None:
    setup.save(1)
    assert latest_checkpoint(setup.run)[0].holder is None  # type: ignore[union-attr]


def test_a_checkpoint_that_goes_while_it_is_looked_at_is_not_damaged(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = setup.save(1)
    real = checkpoint_module._damage

    def while_the_run_goes_on(path: Path) -> str | None:
        if path == first:
            setup.save(2)
            shutil.rmtree(first)
        return real(path)

    monkeypatch.setattr(checkpoint_module, "_damage", while_the_run_goes_on)
    found, problems = latest_checkpoint(setup.run)
    assert (found.step, problems) == (2, [])  # type: ignore[union-attr]
    setup.save(1)
    with pytest.raises(RunError, match="has no checkpoint after step 1; it has: 2"):
        checkpoint_at(setup.run, 1)


def test_equal_steps_make_equal_files_in_sorted_order(setup: Setup) -> None:
    assert files_in(setup.save(3)) == {**files_in(setup.save(4)), **_step_files(setup, 3)}
    config = json.loads((setup.run.checkpoints / "step-000003" / "adapter_config.json").read_text())
    assert len(config["target_modules"]) == 14
    assert config["target_modules"] == sorted(config["target_modules"])


def _step_files(setup: Setup, step: int) -> dict[str, bytes]:
    """The files that hold the step's number or a hash of it."""
    files = files_in(setup.run.checkpoints / f"step-{step:06d}")
    return {name: files[name] for name in ("trainer.json", "checksums.json")}


@pytest.mark.parametrize(
    "name", ["history.json", "history.safetensors", "optimizer.safetensors", "trainer.json"]
)
def test_a_checkpoint_that_never_had_one_of_its_files_is_damaged(setup: Setup, name: str) -> None:
    setup.save(1)
    folder = setup.save(2)
    (folder / name).unlink()
    sums = json.loads((folder / "checksums.json").read_text())
    del sums[name]
    (folder / "checksums.json").write_text(json.dumps(sums))
    checkpoint, problems = latest_checkpoint(setup.run)
    assert checkpoint is not None
    assert (checkpoint.step, problems) == (1, [f"checkpoint {folder} is damaged ({name} is missing)"])


def test_others_may_read_the_adapter(setup: Setup) -> None:
    setup.save(1)
    setup.finish("# card\n")
    for folder in (setup.run.checkpoints / "step-000001", setup.run.adapter):
        config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
        assert stat.S_IMODE(weights.stat().st_mode) == stat.S_IMODE(config.stat().st_mode)
    assert sorted(files_in(setup.run.adapter)) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "checksums.json",
    ]
    assert (setup.run.adapter / "README.md").read_text() == "# card\n"


def test_a_chat_template_of_the_recipes_goes_with_the_adapter(setup: Setup) -> None:
    setup.finish("# card\n", chat_template="{{ messages }}")
    assert (setup.run.adapter / "chat_template.jinja").read_text() == "{{ messages }}"
    assert finished_adapter(setup.run) == []


def test_a_chat_template_that_goes_with_the_adapter_is_verified_with_it(setup: Setup) -> None:
    setup.finish("# card\n", chat_template="{{ messages }}")
    assert finished_adapter(setup.run) == []
    (setup.run.adapter / "README.md").write_text("# my card\n")
    assert finished_adapter(setup.run) == []
    (setup.run.adapter / "chat_template.jinja").write_text("{{ other }}")
    with pytest.raises(CheckpointError, match=r"is damaged \(chat_template\.jinja has changed\)"):
        finished_adapter(setup.run)


def test_going_on_sets_aside_what_is_later_and_removes_what_was_begun(setup: Setup) -> None:
    for step in (1, 2, 3, 4, 5):
        setup.save(step, keep=5)
    for name in (".step-000006.tmp", ".step-000001.old", "notes"):
        (setup.run.checkpoints / name).mkdir()
    (setup.run.path / ".adapter.tmp").mkdir()
    rewind_checkpoints(setup.run, 4, keep=2)
    assert setup.names() == ["notes", "step-000003", "step-000004", "step-000005.damaged-1"]
    assert not (setup.run.path / ".adapter.tmp").exists()


def test_there_is_nothing_to_rewind_before_the_first_checkpoint(setup: Setup) -> None:
    rewind_checkpoints(setup.run, 0, keep=2)
    assert latest_checkpoint(setup.run) == (None, [])


def test_a_step_that_is_there_already_is_set_aside(setup: Setup) -> None:
    setup.save(1)
    setup.save(1)
    assert setup.names() == ["step-000001", "step-000001.replaced-1"]


def test_a_save_that_fails_leaves_the_others_and_no_leftover(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_in(setup.save(1))

    def full(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(CheckpointError, match="step-000002 could not be written: No space left on device"):
        setup.save(2)
    assert setup.names() == ["step-000001"]
    assert files_in(setup.run.checkpoints / "step-000001") == before


def test_a_second_finished_adapter_sets_the_first_aside(setup: Setup) -> None:
    for text in ("one", "two"):
        setup.finish(text)
    assert (setup.run.path / "adapter.replaced-1" / "README.md").read_text() == "one"
    assert (setup.run.adapter / "README.md").read_text() == "two"


def test_a_folder_that_is_no_step_is_no_checkpoint(setup: Setup) -> None:
    setup.save(1)
    for name in ("step-2x", "step-", "step-000009.damaged-1"):
        (setup.run.checkpoints / name).mkdir()
    checkpoint, problems = latest_checkpoint(setup.run)
    assert checkpoint is not None
    assert (checkpoint.step, problems) == (1, [])


def test_the_scale_of_the_loss_comes_back_where_there_is_one(tmp_path: Path) -> None:
    setup = Setup(tmp_path, model={**TINY["model"], "compute_dtype": "float16"})
    setup.policy.loss_scale.value = 256.0
    setup.save(2)
    checkpoint, _ = latest_checkpoint(setup.run)
    assert checkpoint is not None
    policy = load_policy(setup.recipe, recipe_dir=tmp_path, adapter=checkpoint.path)

    def resumed(checkpoint: Checkpoint) -> None:
        optimizer = build_optimizer(policy, setup.recipe.train)
        restore(checkpoint, policy, optimizer, window_of_three())

    resumed(checkpoint)
    assert policy.loss_scale.value == 256.0
    trainer = checkpoint.path / "trainer.json"
    trainer.write_text(trainer.read_text().replace("256.0", "257.0"))
    with pytest.raises(CheckpointError, match=r"loss_scale is 257\.0"):
        resumed(checkpoint)


def test_without_float16_a_checkpoint_has_no_scale(setup: Setup) -> None:
    setup.save(2)
    assert "loss_scale" not in (setup.run.checkpoints / "step-000002" / "trainer.json").read_text()
