"""The optimizer of the adapter's parameters, and its state by the names of the parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pgrpo_cli.recipe.training import TrainSection

from ..policy import Policy


def build_optimizer(policy: Policy, section: TrainSection) -> torch.optim.Optimizer:
    """The optimizer of the recipe over the adapter's parameters."""
    settings = section.optimizer
    arguments: dict[str, Any] = {
        "lr": section.learning_rate,
        "betas": (settings.beta1, settings.beta2),
        "eps": settings.epsilon,
        "weight_decay": settings.weight_decay,
    }
    parameters = list(policy.trainable.values())
    if settings.type == "adamw":
        return torch.optim.AdamW(parameters, **arguments)
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(parameters, **arguments)


def optimizer_state(policy: Policy, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What the optimizer stores, by `parameter name/field`: tensors, copied to the CPU, and numbers.

    They are read from `optimizer.state`: the `state_dict()` of bitsandbytes' optimizers wraps their quantized
    tensors in a dictionary of its own, while the flat fields are what every optimizer loads.
    """
    return {
        f"{name}/{field}": (
            value.detach().cpu().contiguous().clone() if isinstance(value, torch.Tensor) else value
        )
        for name, parameter in policy.trainable.items()
        for field, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(policy: Policy, optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Load what `optimizer_state` returned. Raises KeyError for a parameter that the policy does not have."""
    state: dict[int, dict[str, Any]] = {}
    index_of = {name: i for i, name in enumerate(policy.trainable)}
    for key, value in saved.items():
        name, _, field = key.rpartition("/")
        state.setdefault(index_of[name], {})[field] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
