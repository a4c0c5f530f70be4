"""NF4 layers of bitsandbytes: find them, dequantize them, and keep their gradients on a CPU.

On a CPU with AVX512-BF16 bitsandbytes (0.50) repacks 4-bit weights for inference during the first forward
pass without gradients in eval mode; backward passes through the repacked weights silently lose the gradient.
`keep_differentiable` switches the repacking off; `rollout_weights` makes up for its speed where it counts.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import nn

_FEW = 0.1
"""The share of weights that may stay unquantized without a word: a few projections, a router."""


def nf4_layers(model: nn.Module) -> list[Any]:
    """All `bitsandbytes.nn.Linear4bit` modules of `model`; empty where nothing is quantized."""
    if not getattr(model, "is_loaded_in_4bit", False):
        return []
    from bitsandbytes.nn import Linear4bit

    return [module for module in model.modules() if isinstance(module, Linear4bit)]


def keep_differentiable(model: nn.Module) -> None:
    """Switch off the inference-only weight layout of bitsandbytes on CPUs. Must run before the first
    forward pass.
    """
    for layer in nf4_layers(model):
        layer.support_avx512bf16_for_cpu = False


def unquantized(base: Any) -> str | None:
    """A sentence about the layers' weights that stay as they are beside NF4 ones, if they are many.

    bitsandbytes quantizes `nn.Linear` only; experts are mostly one tensor of three dimensions.
    """
    layers = set(nf4_layers(base))
    if not layers:
        return None
    sizes: Counter[str] = Counter()
    for name, module in base.get_decoder().named_modules():
        if not isinstance(module, nn.Embedding) and module not in layers and ".lora_" not in name:
            weights = (weight for weight in module.parameters(recurse=False) if weight.dim() > 1)
            sizes[type(module).__name__] += sum(weight.numel() for weight in weights)
    left = sizes.total()
    share = left / (left + sum(layer.in_features * layer.out_features for layer in layers))
    if share <= _FEW:
        return None
    return (
        f"{share:.0%} of the layers' weights, {left / 1e9:,.1f} billion, stay unquantized, since only linear "
        f"layers can be NF4; most of them are in {max(sizes, key=lambda kind: sizes[kind])}"
    )


def dequantize(layer: Any) -> torch.Tensor:
    """The layer's weight, shape [out, in], in its compute dtype; on the meta device a weight of that size."""
    if layer.weight.device.type == "meta":
        return torch.empty(layer.out_features, layer.in_features, dtype=layer.compute_dtype, device="meta")
    from bitsandbytes.functional import dequantize_4bit

    weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return weight.to(layer.compute_dtype or weight.dtype)


def plain_weight(layer: Any, dtype: torch.dtype) -> torch.Tensor:
    """The weight [out, in] of a linear layer in `dtype`; a copy only if it is stored in another way."""
    # Only bitsandbytes' parameters have this attribute; they have it on the meta device too.
    is_nf4 = hasattr(layer.weight, "quant_state")
    return (dequantize(layer) if is_nf4 else layer.weight).to(dtype)


def nf4_addresses(model: nn.Module) -> tuple[int, ...]:
    """The memory addresses of the scales and code books that the NF4 layers read."""
    found: list[torch.Tensor] = []
    for layer in nf4_layers(model):
        state = layer.weight.quant_state
        found += [state.absmax, state.code]
        if state.nested:
            found += [state.offset, state.state2.absmax, state.state2.code]
    return tuple(tensor.data_ptr() for tensor in found)
