"""Tiny models on disk for plans, and the same models in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from pgrpo_cli.model.load.base_model import load_base_model
from pgrpo_cli.model.load.from_recipe import adapted
from pgrpo_cli.model.load.random_model import random_tokenizer
from pgrpo_cli.model.memory.meter import Meter
from pgrpo_cli.model.policy import Paths, Policy
from pgrpo_cli.recipe.schema import Recipe

from .policies import ARCHITECTURES, SHAPE
from .recipes import changed

CPU = torch.device("cpu")


def write_config(folder: Path, architecture: str, **changes: Any) -> Any:
    """A folder with a configuration and nothing else: what a plan reads. Returns the configuration."""
    settings = {**SHAPE, **ARCHITECTURES.get(architecture, {}), **changes}
    settings.pop("attn_implementation", None)
    config = CONFIG_MAPPING[architecture](**{k: v for k, v in settings.items() if v is not None})
    config.save_pretrained(folder)
    return config


def write_model(folder: Path, architecture: str, **changes: Any) -> None:
    """A whole model with random weights."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(write_config(folder, architecture, **changes)).save_pretrained(folder)


def recipe_for(folder: Path | None, **values: Any) -> Recipe:
    """A recipe with the model in `folder`, float32, not quantized, with fixed budgets, unless said so."""
    usual = {
        "model__id": "random" if folder is None else str(folder),
        "model__quantization": {"type": "none"},
        "model__compute_dtype": "float32",
        "adapter__r": 4,
        "rollout__tokens_per_batch": 16384,
        "train__tokens_per_micro_batch": 4096,
    }
    return Recipe.model_validate(changed(**{**usual, **values}))


def real_policy(recipe: Recipe) -> Policy:
    """The policy itself, on the CPU."""
    base = load_base_model(recipe.model, Path(), CPU)
    policy = adapted(base, random_tokenizer(), recipe, CPU, paths=Paths())
    return replace(policy, paths=Paths(rollout_dtype=base.dtype))


class RealMeter(Meter):
    """Follows tensors that have contents."""

    def follows(self, tensor: torch.Tensor) -> bool:
        """All but those whose storage is oneDNN's own."""
        return tensor.device.type == "cpu" and tensor.layout == torch.strided


def nf4_held(layer: Any) -> int:
    """Bytes of all tensors that a Linear4bit holds for its weight."""
    state = layer.weight.quant_state
    tensors = [layer.weight.data, state.absmax, state.code]
    if state.nested:
        tensors += [state.offset, state.state2.absmax, state.state2.code]
    return sum(t.numel() * t.element_size() for t in tensors)
