"""Deterministic kernels where a recipe wants them: strict in updates, as far as they go elsewhere."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pgrpo_cli.algo.advantages import compute_advantages
from pgrpo_cli.errors import Interrupted, ModelError, TrainingError
from pgrpo_cli.model.policy import Paths, Policy
from pgrpo_cli.model.rollout.sample import sample
from pgrpo_cli.model.rollout.sampling import SamplingSettings
from pgrpo_cli.model.update.determinism import deterministic, prepare_determinism
from pgrpo_cli.model.update.optimizer import build_optimizer
from pgrpo_cli.model.update.policy_update import policy_update
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.recipe.training import TrainSection
from tests.support.loop import Watcher, go
from tests.support.policies import ARCHITECTURES, HYBRID, made_up_rollouts, make_prompts, tiny_policy
from tests.support.recipes import changed
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


WITHOUT = {
    "cumsum", "put_", "histc", "bincount", "median", "kthvalue", "nll_loss_forward", "nll_loss2d_forward",
    "_ctc_loss_backward", "scatter_reduce", "grid_sampler_2d_backward", "avg_pool3d_backward", "max_unpool2d",
    "reflection_pad1d_backward", "upsample_linear1d_backward", "_embedding_bag_dense_backward",
}  # fmt: skip
"""Operations that `torch.use_deterministic_algorithms` refuses on a GPU, by its documentation: those among
them that a language model or a sampler might have.
"""


class Operations(TorchDispatchMode):
    """Names of all operations that make floating-point numbers, of backward passes too."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(torch.is_tensor(t) and t.is_floating_point() for t in tree_leaves(result)):
            self.names.add(func.overloadpacket.__name__)
        return result


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
            seen[name].add((policy.decoder.layers[0].training, flags()))

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
        if policy.decoder.layers[0].training:
            nondeterministic()

    recipe = write_tiny(tmp_path)
    with pytest.raises(TrainingError, match=r"train\.deterministic is true.* put_ .*") as refusal:
        go(recipe, tmp_path / "run", WANTED, touch=in_forward_passes(only_in_updates))
    assert "Set train.deterministic to false" in str(refusal.value.remedy)
    go(recipe, tmp_path / "run")


def operations_of_an_update(policy: Policy) -> set[str]:
    rollouts = made_up_rollouts((5, 4), (3, 7, 5, 1))
    recipe = Recipe.model_validate(changed(loss__beta=0.1, train__deterministic=True))
    advantages = compute_advantages([0.1, 0.9, 0.4, 1.5], list("aabb"), num_generations=2, estimator="grpo")
    with Operations() as operations:
        policy_update(policy, build_optimizer(policy, recipe.train), rollouts, advantages, recipe, step=1)
    # Backward passes were seen, too.
    assert any("backward" in name for name in operations.names)
    return operations.names


@pytest.mark.parametrize("case", ["llama", "qwen3", "gemma3_text", "phi3", "padded", "checkpointing"])
def test_an_update_has_nothing_that_torch_would_refuse(case: str) -> None:
    policy = tiny_policy(case if case in ARCHITECTURES else "llama", torch.float32)
    if case == "checkpointing":
        policy.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    policy = replace(policy, paths=Paths(packed=case != "padded"))
    assert not operations_of_an_update(policy) & WITHOUT


def test_recurrent_layers_have_cumulative_sums_in_updates_too() -> None:
    policy = replace(tiny_policy("qwen3_next", torch.float32, **HYBRID), paths=Paths(packed=False))
    assert operations_of_an_update(policy) & WITHOUT == {"cumsum"}


def test_a_rollout_has_cumulative_sums_and_nothing_else_of_the_kind() -> None:
    settings = SamplingSettings(num_generations=2, max_completion_tokens=4, top_p=0.9, top_k=5)
    with Operations() as operations:
        sample(tiny_policy("llama", torch.float32), make_prompts([5, 3]), settings, seed=0)
    assert operations.names & WITHOUT == {"cumsum"}


@pytest.mark.filterwarnings("ignore:.*does not have a deterministic implementation")
def test_a_rollout_does_what_it_cannot_repeat(tmp_path: Path) -> None:
    def only_in_rollouts(policy: Policy) -> None:
        if not policy.decoder.layers[0].training:
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

    monkeypatch.setattr("pgrpo_cli.verbs.train.device_for", device_for)
    for run, options in (("a", []), ("b", ["--set", WANTED])):
        assert pgrpo("train", write_tiny(tmp_path), "--run-dir", tmp_path / run, *options).exit_code == 2
    assert found == [None, ":4096:8"]


def test_torchs_words_about_cublas_are_understood() -> None:
    words = "Deterministic behavior was enabled ... you must set an environment variable before running your "
    words += "PyTorch application: CUBLAS_WORKSPACE_CONFIG=:4096:8"
    with pytest.raises(TrainingError) as refusal, deterministic(ON, strict=True):
        raise RuntimeError(words)
    assert "before Python starts" in str(refusal.value.remedy)
