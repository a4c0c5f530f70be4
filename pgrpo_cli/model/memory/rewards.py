"""Memory of the models that rewards use. They stay in memory beside the policy for the whole run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from pgrpo_cli.errors import ModelError
from pgrpo_cli.pretrained.loading import load_config
from pgrpo_cli.pretrained.location import first_line
from pgrpo_cli.recipe.reward_base import PretrainedFields
from pgrpo_cli.recipe.rewards import pretrained_in
from pgrpo_cli.rewards.pretrained import CLASSIFIER, ENCODER, location_of

from .plan import Device
from .weights import nf4_bytes


def reward_bytes(rewards: Iterable[Any], recipe_dir: Path, device: Device) -> int:
    """Bytes of the weights and buffers of all reward models, from their configurations. Activations are not
    counted.

    Raises ModelError for a model whose configuration cannot be read.
    """
    return sum(
        _bytes_of(pretrained, reward, recipe_dir, device)
        for reward in rewards
        if (pretrained := pretrained_in(reward))
    )


def _bytes_of(section: PretrainedFields, reward: Any, recipe_dir: Path, device: Device) -> int:
    import transformers

    factory = CLASSIFIER if reward.type == "reward_model" else ENCODER
    at = location_of(section, recipe_dir, reward.label)
    config = load_config(at)
    try:
        with torch.device("meta"):
            model = getattr(transformers, factory).from_config(config, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{at.shown} is not a model for this reward: {first_line(error)}",
            remedy="Name a checkpoint that was saved for this task.",
        ) from error
    # Rewards load their models in the checkpoint's dtype on a GPU, and in float32 on a CPU.
    dtype = getattr(config, "dtype", None) if device == "cuda" else None
    model = model.to(dtype or torch.float32)
    quantized = {}
    if section.quantization.type == "nf4":
        double = section.quantization.double
        quantized = {id(w): nf4_bytes(w.numel(), double) for w in _quantized_weights(model)}
    tensors = [*model.parameters(), *model.buffers()]
    return sum(quantized.get(id(tensor), tensor.numel() * tensor.element_size()) for tensor in tensors)


def _quantized_weights(model: Any) -> Iterator[torch.Tensor]:
    """Weights of the linear layers that transformers quantizes: all but those of the head (last module)."""
    children = list(model.children())
    for module in children[:-1]:
        yield from (layer.weight for layer in module.modules() if isinstance(layer, torch.nn.Linear))
