"""What loading a policy does to its process and device."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from pgrpo_cli.model.load.base_model import load_base_model
from pgrpo_cli.model.load.from_recipe import adapted, load_policy
from pgrpo_cli.model.load.random_model import random_tokenizer
from pgrpo_cli.model.policy import Paths
from tests.support.memory_plans import CPU, recipe_for


@pytest.fixture(autouse=True)
def _attention() -> object:
    torch.backends.cuda.enable_cudnn_sdp(True)
    yield
    torch.backends.cuda.enable_cudnn_sdp(True)


def test_a_policy_for_a_cpu(tmp_path: Path) -> None:
    policy = load_policy(recipe_for(None), recipe_dir=tmp_path, device=CPU, paths=Paths())
    assert policy.head_chunk == 128
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_a_policy_for_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that needs no GPU: its generator of random numbers is left alone, its weights are elsewhere."""
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: nullcontext())
    recipe = recipe_for(None)
    base = load_base_model(recipe.model, tmp_path, CPU)
    policy = adapted(base, random_tokenizer(), recipe, torch.device("cuda"), paths=Paths())
    assert policy.head_chunk == 512
    assert not torch.backends.cuda.cudnn_sdp_enabled()
