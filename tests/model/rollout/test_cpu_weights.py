"""The plain matrices of CPU rollouts give what the layers give, with the adapter on and off."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pgrpo_cli.model.load.from_recipe import load_policy
from pgrpo_cli.model.policy import Paths
from pgrpo_cli.model.rollout import cpu_weights as module
from pgrpo_cli.model.rollout.cpu_weights import fastest_dtype, rollout_weights
from pgrpo_cli.model.rollout.sample import sample
from pgrpo_cli.model.rollout.sampling import SamplingSettings
from pgrpo_cli.recipe.schema import Recipe
from tests.support.policies import make_prompts, randomize_adapter, tiny_policy
from tests.support.recipes import MINIMAL

PROMPTS = make_prompts((9, 5))


def _policy(scale=0.05, **model):
    recipe = Recipe.model_validate({**MINIMAL, "model": {"id": "random", **model}})
    policy = load_policy(recipe, recipe_dir=Path("."), device=torch.device("cpu"))
    randomize_adapter(policy, scale=scale)
    policy.model.eval()
    return policy


def _logits(policy):
    with torch.no_grad():
        return policy.model(input_ids=torch.tensor([PROMPTS[0].input_ids])).logits


def _error(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "phi3", "gpt2"])
def test_the_adapter_is_in_the_weights_in_float32(architecture):
    policy = tiny_policy(architecture, torch.float64)
    policy.model.eval()
    before = _logits(policy)
    with policy.base():
        base = _logits(policy)
        with rollout_weights(policy, num_rows=4):
            torch.testing.assert_close(_logits(policy), base, atol=1e-12, rtol=0)
    with rollout_weights(policy, num_rows=4):
        torch.testing.assert_close(_logits(policy), before, atol=1e-12, rtol=0)
    assert torch.equal(_logits(policy), before)
    assert _error(base, before) > 1e-3


def test_in_bfloat16_a_small_adapter_is_not_lost_in_the_rounding():
    policy = _policy(scale=0.2, compute_dtype="bfloat16", random={"hidden_size": 128, "num_layers": 2})
    before = [vars(layer).get("forward") for layer in policy.model.modules()]
    quantized = _logits(policy)
    with policy.base():
        base = _logits(policy)
    with rollout_weights(policy, num_rows=4):
        plain = _logits(policy)
    # Both round to 8 bits, in another order; without the adapter the logits are as far off as it is large.
    assert _error(plain, quantized) < _error(base, quantized) / 4
    assert [vars(layer).get("forward") for layer in policy.model.modules()] == before


def test_nf4_weights_without_an_adapter_are_dequantized_to_the_bit():
    policy = _policy(compute_dtype="bfloat16", random={"hidden_size": 128, "num_layers": 2})
    with policy.base():
        quantized = _logits(policy)
        with rollout_weights(policy, num_rows=4):
            assert torch.equal(_logits(policy), quantized)


def test_a_cpu_may_sample_in_float32_and_leaves_the_model_as_it_was():
    policy = _policy(compute_dtype="bfloat16", random={"hidden_size": 64, "num_layers": 2})
    before = {name: (p.dtype, p.data_ptr()) for name, p in policy.model.named_parameters()}
    faster = replace(policy, paths=Paths(rollout_dtype=torch.float32))
    with rollout_weights(faster, num_rows=4):
        precise = _logits(policy)
    assert precise.dtype == torch.float32
    assert _error(_logits(policy), precise) < 0.02
    rollouts = sample(faster, PROMPTS, SamplingSettings(2, 4), seed=0)
    assert len(rollouts.texts_N) == 4
    assert {name: (p.dtype, p.data_ptr()) for name, p in policy.model.named_parameters()} == before


@pytest.mark.parametrize(
    ("bfloat16_seconds", "chosen"),
    [(1.0, torch.bfloat16), (2.2, torch.bfloat16), (2.6, torch.float32)],
    ids=["faster", "not much slower", "slower"],
)
def test_the_rollout_dtype_is_the_faster_one(monkeypatch, bfloat16_seconds, chosen):
    # float32 takes 2 seconds and must be 1.25 times as fast: the edge is at 2.5.
    seconds = {torch.bfloat16: bfloat16_seconds, torch.float32: 2.0}
    monkeypatch.setattr(module, "_seconds", seconds.__getitem__)
    assert fastest_dtype(_policy(compute_dtype="bfloat16")) == chosen


def test_float32_models_sample_in_float32_unmeasured(monkeypatch):
    monkeypatch.delattr(module, "_seconds")
    policy = _policy(compute_dtype="float32", quantization={"type": "none"})
    assert fastest_dtype(policy) == torch.float32
