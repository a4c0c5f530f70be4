"""In training mode a frozen base model computes what it computes in rollouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from pgrpo_cli.model.load.base_model import load_base_model
from pgrpo_cli.model.load.from_recipe import adapted
from pgrpo_cli.model.load.frozen import freeze
from pgrpo_cli.model.load.random_model import random_tokenizer
from pgrpo_cli.model.memory.meta_policy import meta_policy
from pgrpo_cli.model.policy import Paths
from tests.support.memory_plans import CPU, recipe_for, write_model
from tests.support.policies import SHAPE

GPT2: dict[str, Any] = {"vocab_size": 258, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
RANDOM: dict[str, dict[str, Any]] = {
    "gpt2": GPT2,
    "opt": {**SHAPE, "layerdrop": 0.5, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "falcon": {**SHAPE, "hidden_dropout": 0.1, "attention_dropout": 0.1},
    "granite": {**SHAPE, "attention_dropout": 0.1},
    "phi": {**SHAPE, "resid_pdrop": 0.1, "embd_pdrop": 0.1},
    "seed_oss": SHAPE,
    "mixtral": {**SHAPE, "num_local_experts": 4, "num_experts_per_tok": 2, "router_jitter_noise": 0.3},
}
IDS = torch.arange(2, 34).view(1, -1)


def _base(architecture: str) -> Any:
    torch.manual_seed(0)
    settings = {k: v for k, v in RANDOM[architecture].items() if k != "head_dim"}
    return AutoModelForCausalLM.from_config(CONFIG_MAPPING[architecture](**settings))


def _changes(model: Any) -> bool:
    """Whether training mode changes the logits."""
    with torch.no_grad():
        exact = model.eval()(input_ids=IDS).logits
        return not torch.equal(model.train()(input_ids=IDS).logits, exact)


@pytest.mark.parametrize("architecture", RANDOM)
def test_a_base_model_is_not_random_in_training(architecture: str) -> None:
    base = _base(architecture)
    assert _changes(base)
    freeze(base)
    assert not _changes(base)
    assert not any(parameter.requires_grad for parameter in base.parameters())


def test_a_policy_has_the_adapters_dropout_only(tmp_path: Path) -> None:
    recipe = recipe_for(None, adapter__dropout=0.25, adapter__target_modules=["c_attn"])
    policy = adapted(_base("gpt2"), random_tokenizer(), recipe, CPU, paths=Paths())
    with policy.base():
        assert not _changes(policy.model)
    # A new adapter adds 0, whatever it drops.
    for name, weight in policy.trainable.items():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    assert _changes(policy.model)


def test_a_plan_has_no_dropout_either(tmp_path: Path) -> None:
    write_model(tmp_path, "granite", head_dim=None, attention_dropout=0.1)
    recipe = recipe_for(tmp_path)
    assert load_base_model(recipe.model, tmp_path, CPU).config.attention_dropout == 0.1
    layers = meta_policy(recipe, tmp_path).decoder.layers
    assert [layer.self_attn.attention_dropout for layer in layers] == [0.0, 0.0]
