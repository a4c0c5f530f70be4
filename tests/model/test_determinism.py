"""Deterministic kernels where a recipe wants them: strict in updates, as far as they go elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from pgrpo_cli.errors import Interrupted, ModelError, TrainingError
from pgrpo_cli.model.determinism import deterministic, prepare_determinism
from pgrpo_cli.model.policy import Policy
from pgrpo_cli.recipe.training import TrainSection
from tests.support.loop import Watcher, go
from tests.support.training import outcome, pgrpo, write_tiny

ON, WANTED = TrainSection(deterministic=True), "train.deterministic=true"
VARIABLE = "CUBLAS_WORKSPACE_CONFIG"

Flags = tuple[bool, bool, bool, bool]


def flags() -> Flags:
    """(deterministic, warnings only, cuDNN's benchmark, filling of memory)."""
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        torch.utils.deterministic.fill_uninitialized_memory,
    )


def nondeterministic(*_: Any) -> None:
    """An operation for which torch has no deterministic implementation, on a CPU either."""
    torch.zeros(3).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))


def in_forward_passes(act: Any) -> Any:
    """Puts `act(policy)` before every forward pass of the policy of a run."""

    def touch(policy: Policy) -> None:
        policy.decoder.register_forward_pre_hook(lambda *_: act(policy))

    return touch


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv(VARIABLE, "removed afterwards")
    monkeypatch.delenv(VARIABLE)
    before = flags()
    yield
    assert flags() == before


def test_a_run_computes_as_its_recipe_says_and_its_bits_stay_on_a_cpu(tmp_path: Path) -> None:
    recipe = write_tiny(tmp_path)
    seen: dict[str, set[tuple[bool, Flags]]] = {"usual": set(), "wanted": set()}
    for name, overrides in (("usual", ()), ("wanted", (WANTED,))):

        def note(policy: Policy, name: str = name) -> None:
            seen[name].add((policy.model.training, flags()))

        go(recipe, tmp_path / name, *overrides, touch=in_forward_passes(note))
    # In a rollout the model is in evaluation mode.
    usual = flags()
    assert seen["usual"] == {(False, usual), (True, usual)}
    assert seen["wanted"] == {(False, (True, True, False, False)), (True, (True, False, False, False))}
    left, right = outcome(tmp_path / "usual"), outcome(tmp_path / "wanted")
    assert left.pop("recipe") != right.pop("recipe")
    assert left == right


def test_a_run_goes_on_with_the_other_value(tmp_path: Path) -> None:
    recipe = write_tiny(tmp_path)
    with pytest.raises(Interrupted):
        go(recipe, tmp_path / "run", WANTED, watcher=Watcher(stop_after=2))
    go(recipe, tmp_path / "run")
    go(recipe, tmp_path / "whole", WANTED)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_what_an_update_cannot_repeat_is_an_error_that_helps(tmp_path: Path) -> None:
    def only_in_updates(policy: Policy) -> None:
        if policy.model.training:
            nondeterministic()

    recipe = write_tiny(tmp_path)
    with pytest.raises(TrainingError, match=r"train\.deterministic is true.* put_ .*") as refusal:
        go(recipe, tmp_path / "run", WANTED, touch=in_forward_passes(only_in_updates))
    assert "Set train.deterministic to false" in str(refusal.value.remedy)
    go(recipe, tmp_path / "run")


@pytest.mark.filterwarnings("ignore:.*does not have a deterministic implementation")
def test_a_rollout_does_what_it_cannot_repeat(tmp_path: Path) -> None:
    def only_in_rollouts(policy: Policy) -> None:
        if not policy.model.training:
            nondeterministic()

    go(write_tiny(tmp_path), tmp_path / "run", WANTED, touch=in_forward_passes(only_in_rollouts))


def test_settings_of_a_caller_come_back() -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = True
    try:
        with deterministic(ON, strict=True):
            assert flags() == (True, False, False, False)
        assert flags() == (True, True, True, True)
        with pytest.raises(RuntimeError, match=r"^other$"), deterministic(ON, strict=True):
            raise RuntimeError("other")
        assert flags() == (True, True, True, True)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = False


def test_what_cublas_needs_is_set_where_it_is_wanted_and_unset() -> None:
    prepare_determinism(TrainSection())
    assert VARIABLE not in os.environ
    prepare_determinism(ON)
    assert os.environ[VARIABLE] == ":4096:8"
    os.environ[VARIABLE] = ":16:8"
    prepare_determinism(ON)
    assert os.environ[VARIABLE] == ":16:8"


def test_cublas_is_told_before_cuda_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []

    def device_for(*_: Any) -> None:
        found.append(os.environ.get(VARIABLE))
        raise ModelError("none")

    monkeypatch.setattr("pgrpo_cli.model.precision.device_for", device_for)
    for run, options in (("a", []), ("b", ["--set", WANTED])):
        assert pgrpo("train", write_tiny(tmp_path), "--run-dir", tmp_path / run, *options).exit_code == 2
    assert found == [None, ":4096:8"]


def test_torchs_words_about_cublas_are_understood() -> None:
    words = "Deterministic behavior was enabled ... you must set an environment variable before running your "
    words += "PyTorch application: CUBLAS_WORKSPACE_CONFIG=:4096:8"
    with pytest.raises(TrainingError) as refusal, deterministic(ON, strict=True):
        raise RuntimeError(words)
    assert "before Python starts" in str(refusal.value.remedy)
