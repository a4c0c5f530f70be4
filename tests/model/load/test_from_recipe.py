"""What loading a policy does to its process and device."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from pgrpo_cli.model.load import from_recipe
from pgrpo_cli.model.load.base_model import load_base_model
from pgrpo_cli.model.load.from_recipe import adapted, load_policy
from pgrpo_cli.model.load.random_model import random_tokenizer
from pgrpo_cli.model.policy import Paths
from pgrpo_cli.model.rollout.sample import sample
from pgrpo_cli.model.rollout.sampling import SamplingSettings
from tests.support.memory_plans import CPU, recipe_for, write_model
from tests.support.policies import VOCABULARY, make_prompts, tiny_base


@pytest.fixture(autouse=True)
def _attention() -> object:
    torch.backends.cuda.enable_cudnn_sdp(True)
    yield
    torch.backends.cuda.enable_cudnn_sdp(True)


def test_a_policy_for_a_cpu(tmp_path: Path) -> None:
    policy = load_policy(recipe_for(None), recipe_dir=tmp_path, device=CPU, paths=Paths())
    assert policy.head_chunk == 128
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_a_padding_token_without_an_embedding(tmp_path: Path) -> None:
    """Such tokenizers are common: [PAD] was added to them, and the model was never resized."""
    write_model(tmp_path, "llama")
    tokenizer = random_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == VOCABULARY
    tokenizer.save_pretrained(tmp_path)
    policy = load_policy(recipe_for(tmp_path), recipe_dir=tmp_path, device=CPU)
    assert policy.tokenizer.pad_token_id == policy.tokenizer.eos_token_id < VOCABULARY
    rollouts = sample(policy, make_prompts((9, 4)), SamplingSettings(2, 4), seed=0)
    assert int(rollouts.completion_ids_N_T.max()) < VOCABULARY


def test_a_model_that_cannot_sample_in_another_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jamba's recurrent layers read their weights themselves, in the dtype in which they are stored."""
    monkeypatch.setattr(from_recipe, "fastest_dtype", lambda policy: torch.float32)
    recipe = recipe_for(None, model__compute_dtype="bfloat16")
    layers = {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 1, "use_mamba_kernels": False}
    shape = {"head_dim": None, "mamba_d_state": 8, "mamba_dt_rank": 4}
    jamba = tiny_base("jamba", torch.bfloat16, **layers, **shape)
    policy = adapted(jamba, random_tokenizer(), recipe, CPU)
    assert policy.paths.rollout_dtype == torch.bfloat16
    sample(policy, make_prompts((9, 4)), SamplingSettings(2, 4), seed=0)
    llama = adapted(tiny_base("llama", torch.bfloat16), random_tokenizer(), recipe, CPU)
    assert llama.paths.rollout_dtype == torch.float32


def test_a_policy_for_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that needs no GPU: its generator of random numbers is left alone, its weights are elsewhere."""
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: nullcontext())
    recipe = recipe_for(None)
    base = load_base_model(recipe.model, tmp_path, CPU)
    # The two timings of a GPU, and the probe, are made once, when the model is loaded.
    monkeypatch.setattr(from_recipe, "probe", lambda policy: Paths(graphs=False))
    monkeypatch.setattr(from_recipe, "can_sample", lambda policy: True)
    monkeypatch.setattr(from_recipe, "measured_logit_scale", lambda policy: 1.0)
    monkeypatch.setattr(from_recipe, "fastest_dtype", lambda policy: torch.bfloat16)
    monkeypatch.setattr(from_recipe, "rows_from_which_copies_are_faster", lambda model: 7)
    policy = adapted(base, random_tokenizer(), recipe, torch.device("cuda"))
    assert policy.paths == Paths(graphs=False, rollout_dtype=torch.bfloat16, copy_from_rows=7)
    assert policy.head_chunk == 512
    assert not torch.backends.cuda.cudnn_sdp_enabled()
