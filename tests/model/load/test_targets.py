"""Adapters are on linear layers of the language model, and on no others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from pgrpo_cli.errors import ModelError
from pgrpo_cli.model.load.adapter import attach_adapter
from pgrpo_cli.model.load.targets import targets_of
from pgrpo_cli.model.load.twin import twin
from pgrpo_cli.model.policy import Policy
from pgrpo_cli.recipe.model import AdapterSection
from tests.support.memory_plans import CPU
from tests.support.policies import SHAPE, SLIDING

EXPERTS = {"head_dim": None, "num_local_experts": 4, "num_experts_per_tok": 2}
MAMBA: dict[str, Any] = {
    "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1,
}  # fmt: skip
VISION: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip


def _base(architecture: str, **changes: Any) -> Any:
    settings = {k: v for k, v in {**SHAPE, **changes}.items() if v is not None}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIG_MAPPING[architecture](**settings))


def _seeing() -> Any:
    """A model for text and pictures; layers of both parts are named q_proj."""
    config = CONFIG_MAPPING["gemma3"](text_config={**SHAPE, **SLIDING}, vision_config=VISION)
    return AutoModelForCausalLM.from_config(config)


def _adapted(base: Any, **section: Any) -> set[str]:
    model = attach_adapter(base, AdapterSection(r=2, **section))
    names = (name for name, parameter in model.named_parameters() if parameter.requires_grad)
    return {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in names}


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3_text", "gpt2"])
@pytest.mark.parametrize("asked", ["all-linear", ("c_attn", "q_proj")])
def test_usual_models_have_the_adapter_that_peft_makes(architecture: str, asked: Any) -> None:
    if architecture == "gpt2":
        base = _base("gpt2", n_embd=32, n_layer=2, n_head=4)
    else:
        base = _base(architecture, **SLIDING if "gemma" in architecture else {})
    if asked != "all-linear":
        asked = [name for name in asked if any(n.endswith(name) for n, _ in base.named_modules())]
    assert targets_of(base, asked) == asked


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "down_proj")])
def test_the_vision_tower_has_none(targets: Any) -> None:
    found = _adapted(_seeing(), target_modules=targets)
    assert found
    assert all(name.startswith("model.language_model.layers.") for name in found)


def test_the_twin_of_such_a_model_has_its_adapter_too() -> None:
    model = attach_adapter(_seeing(), AdapterSection(r=2, target_modules=("q_proj",)))
    small = twin(Policy(model, None, CPU))
    assert type(small.model.get_base_model()).__name__ == "Gemma3ForCausalLM"
    # A and B in each of two layers.
    assert len(small.trainable) == 4


def test_a_router_that_is_no_linear_layer_has_none() -> None:
    """PhiMoE's is of a class that is derived from nn.Linear, and gives two tensors."""
    found = _adapted(_base("phimoe", **EXPERTS))
    assert {name.rpartition(".")[2] for name in found} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    with pytest.raises(ModelError, match="no linear layer that is trained is named 'router'"):
        _adapted(_base("phimoe", **EXPERTS), target_modules=("router",))


def test_a_linear_layer_of_a_models_own_class_has_one() -> None:
    found = _adapted(_base("falcon", head_dim=None))
    assert "dense_4h_to_h" in {name.rpartition(".")[2] for name in found}


def test_a_hybrid_has_them_where_peft_can_put_them() -> None:
    leaves = {name.rpartition(".")[2] for name in _adapted(_base("falcon_h1", head_dim=None, **MAMBA))}
    assert {"in_proj", "q_proj", "down_proj"} <= leaves
    assert "out_proj" not in leaves


def test_experts_have_no_dropout() -> None:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    with pytest.raises(ModelError, match=r"adapter\.dropout is 0\.1, and the experts") as error:
        _adapted(_base("qwen3_moe", decoder_sparse_step=1, **experts), dropout=0.1)
    assert "Set adapter.dropout to 0" in str(error.value.remedy)
