"""Bytes and numbers of weights against models that are really there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pgrpo_cli.model.load.adapter import attach_adapter
from pgrpo_cli.model.memory.meta_policy import meta_policy
from pgrpo_cli.model.memory.weights import (
    adapter_bytes,
    base_parameters,
    base_weights,
    dequantized_bytes,
    nf4_bytes,
    optimizer_bytes,
)
from pgrpo_cli.model.nf4 import dequantize, nf4_layers
from pgrpo_cli.recipe.training import AdamW, AdamW8bit
from tests.support.memory_plans import nf4_held, real_policy, recipe_for, write_config

ARCHITECTURES = ("llama", "qwen3", "gemma3_text", "phi3")


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parameters_are_those_of_the_model(tmp_path: Path, architecture: str, tied: bool) -> None:
    config = write_config(tmp_path, architecture, tie_word_embeddings=tied)
    policy = meta_policy(recipe_for(tmp_path), Path())
    assert {p.device.type for p in policy.model.parameters()} == {"meta"}
    real = AutoModelForCausalLM.from_config(config)
    assert base_parameters(policy).total() == real.num_parameters()
    tensors = [*real.parameters(), *real.buffers()]
    assert base_weights(policy).total() == sum(t.numel() * t.element_size() for t in tensors)
    model = attach_adapter(real.requires_grad_(False), recipe_for(tmp_path).adapter)
    assert sum(p.numel() for p in policy.trainable.values()) == model.get_nb_trainable_parameters()[0]


def test_parts_of_a_llama_by_hand(tmp_path: Path) -> None:
    config = write_config(tmp_path, "llama", tie_word_embeddings=False)
    V, D, layers = config.vocab_size, 32, 2
    # 4 query heads and 2 key-value heads of 8 features; two norms a layer and one at the end.
    assert base_parameters(meta_policy(recipe_for(tmp_path), Path())) == {
        "embeddings": V * D,
        "attention": layers * (D * 32 + 2 * D * 16 + 32 * D),
        "MLP": layers * 3 * D * 48,
        "norms": (2 * layers + 1) * D,
        "output layer": V * D,
    }


def test_parts_of_a_mixture_by_hand(tmp_path: Path) -> None:
    experts = {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "decoder_sparse_step": 1,
    }
    V, D, layers = write_config(tmp_path, "qwen3_moe", **experts).vocab_size, 32, 2
    # 4 query heads and 2 key-value heads of 8 features, with a norm of queries and one of keys.
    assert base_parameters(meta_policy(recipe_for(tmp_path), Path())) == {
        "embeddings": V * D,
        "attention": layers * (D * 32 + 2 * D * 16 + 32 * D + 2 * 8),
        "MLP": layers * (4 * 3 * D * 16 + 4 * D),
        "norms": (2 * layers + 1) * D,
        "output layer": V * D,
    }


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"]])
def test_the_adapter_is_in_float32_whatever_the_model_is_in(targets: Any) -> None:
    recipe = recipe_for(None, model__compute_dtype="bfloat16", adapter__target_modules=targets)
    real, policy = real_policy(recipe), meta_policy(recipe, Path())
    assert {n: (p.shape, p.dtype) for n, p in policy.trainable.items()} == {
        n: (p.shape, p.dtype) for n, p in real.trainable.items()
    }
    assert adapter_bytes(policy) == 4 * sum(p.numel() for p in real.trainable.values())


@pytest.mark.parametrize("double", [True, False], ids=["double", "single"])
def test_nf4_takes_what_bitsandbytes_holds(double: bool) -> None:
    recipe = recipe_for(
        None,
        model__quantization={"type": "nf4", "double": double},
        model__compute_dtype="bfloat16",
        # Sizes of which neither 64 nor 256 blocks are a divisor everywhere.
        model__random={"hidden_size": 120, "num_layers": 2, "num_heads": 4},
    )
    real, on_meta = real_policy(recipe), meta_policy(recipe, Path())
    layers = nf4_layers(real.model)
    assert len(layers) == len(nf4_layers(on_meta.model)) == 14
    for layer, twin in zip(layers, nf4_layers(on_meta.model), strict=True):
        assert nf4_bytes(twin.in_features * twin.out_features, double) == nf4_held(layer)
        assert dequantize(twin).shape == dequantize(layer).shape
        assert dequantize(twin).dtype == dequantize(layer).dtype
    others = [p for p in real.model.get_base_model().parameters() if not p.requires_grad]
    quantized = {id(layer.weight) for layer in layers}
    rest = sum(p.numel() * p.element_size() for p in others if id(p) not in quantized)
    buffers = sum(b.numel() * b.element_size() for b in real.model.buffers())
    assert base_weights(on_meta).total() == sum(map(nf4_held, layers)) + rest + buffers
    assert dequantized_bytes(on_meta) == sum(dequantize(layer).numel() * 2 for layer in layers)


def test_optimizer_states_by_hand() -> None:
    parameters = [torch.empty(16, 512), torch.empty(16, 8)]
    assert optimizer_bytes(parameters, AdamW()) == 8 * (16 * 512 + 16 * 8)
    # 8192 entries are 32 blocks of 256 with a float32 each; 128 entries are too few and stay in 32 bits.
    assert optimizer_bytes(parameters, AdamW8bit()) == 2 * 8192 + 2 * 4 * 32 + 8 * 128
    optimizer = torch.optim.AdamW([p.requires_grad_() for p in parameters])
    sum(p.square().sum() for p in parameters).backward()  # type: ignore[union-attr]
    optimizer.step()
    moments = [s[name] for s in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert optimizer_bytes(parameters, AdamW()) == sum(m.numel() * m.element_size() for m in moments)
