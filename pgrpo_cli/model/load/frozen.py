"""The base model as training needs it: without gradients, and without random numbers of its own.

Many models have dropout in their configuration (GPT-2, OPT, Granite), or disturb the routing to their
experts (Mixtral's `router_jitter_noise`). In training mode their log-probabilities would differ from those of
rollouts at random, and ratios, KL and gradients with them. Only the adapter's dropout is the recipe's.
"""

from __future__ import annotations

from typing import Any

from torch.nn.modules.dropout import _DropoutNd

_JITTER = ("jitter_noise", "input_jitter_noise")
"""Layers use these in training only. PhiMoE's `router_jitter_noise` is a threshold, in sampling too."""


def freeze(base: Any) -> None:
    """Switch off the gradients, the dropout and the noise of a model that has no adapter yet."""
    base.requires_grad_(False)
    # Some layers read the probability from the configuration.
    for holder in (base.config, base.config.get_text_config(), *base.modules()):
        for name, value in vars(holder).items():
            random = "drop" in name or name in _JITTER or (name == "p" and isinstance(holder, _DropoutNd))
            if random and isinstance(value, float):
                setattr(holder, name, 0.0)
