"""NF4 layers of bitsandbytes: find them, dequantize them, and keep their gradients on a CPU.

On a CPU with AVX512-BF16 bitsandbytes (0.50) repacks 4-bit weights for inference during the first forward
pass without gradients in eval mode; backward passes through the repacked weights silently lose the gradient.
`keep_differentiable` switches the repacking off; `rollout_weights` makes up for its speed where it counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from .replaced import forwards_replaced

_ROWS_OF_FUSED_PRODUCT = 4
"""bitsandbytes multiplies up to so many rows by packed weights on any CUDA device."""


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


def dequantize(layer: Any) -> torch.Tensor:
    """The layer's weight, shape [out, in], in its compute dtype; on the meta device a weight of that size."""
    if layer.weight.device.type == "meta":
        return torch.empty(layer.out_features, layer.in_features, dtype=layer.compute_dtype, device="meta")
    from bitsandbytes.functional import dequantize_4bit

    weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return weight.to(layer.compute_dtype or weight.dtype)


def plain_weight(layer: Any, dtype: torch.dtype) -> torch.Tensor:
    """The weight [out, in] of a linear layer in `dtype`: itself where it is that already, else a copy."""
    # bitsandbytes' parameters have it, on the meta device too.
    is_nf4 = hasattr(layer.weight, "quant_state")
    return (dequantize(layer) if is_nf4 else layer.weight).to(dtype)


def nf4_addresses(model: nn.Module) -> tuple[int, ...]:
    """Where the NF4 layers read scales, code books and, where they have one, the dequantized copy."""
    found: list[torch.Tensor] = []
    for layer in nf4_layers(model):
        state = layer.weight.quant_state
        found += [state.absmax, state.code]
        if state.nested:
            found += [state.offset, state.state2.absmax, state.state2.code]
        if "forward" in vars(layer):
            found.append(layer.forward.args[0])
    return tuple(tensor.data_ptr() for tensor in found)


def copy_pays(num_rows: int, copy_bytes: int, free_bytes: int, total_bytes: int) -> bool:
    """Whether rollouts on a CUDA device should multiply by a dequantized copy of the NF4 weights.

    A token waits for the weights to be read. Up to four rows bitsandbytes multiplies by the packed weights,
    1/4 of what a copy of 16-bit weights makes it read. With more rows it dequantizes into memory first, for
    every token again: packed weights in, the copy out and in, 9/4 of the copy. So a copy pays for more than
    four rows, as long as a quarter of the device stays free for keys, values and the prefill.
    """
    return num_rows > _ROWS_OF_FUSED_PRODUCT and copy_bytes <= free_bytes - total_bytes // 4


@contextmanager
def dequantized(model: nn.Module, *, num_rows: int, kept: dict[int, torch.Tensor]) -> Iterator[None]:
    """Within the block, NF4 layers on a CUDA device multiply by a dequantized copy where `copy_pays`, else
    by bitsandbytes' own kernels. `kept`: the copies by layer, for the caller to keep for the next time.
    """
    layers = nf4_layers(model)
    if layers and not kept and not _copy_is_due(layers, num_rows):
        layers = []
    try:
        for i, layer in enumerate(layers):
            if i not in kept:
                kept[i] = dequantize(layer)
    except torch.OutOfMemoryError:
        kept.clear()
        layers = []
    forwards = {layer: partial(_forward, kept[i], layer.bias) for i, layer in enumerate(layers)}
    with forwards_replaced(forwards):
        yield


def _forward(weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    return linear(x.to(weight.dtype), weight, bias).to(x.dtype)


def _copy_is_due(layers: list[Any], num_rows: int) -> bool:
    states = [(layer.weight.quant_state, layer.compute_dtype) for layer in layers]
    copy_bytes = sum(math.prod(state.shape) * (dtype or state.dtype).itemsize for state, dtype in states)
    return copy_pays(num_rows, copy_bytes, *_memory(layers[0].weight.device))


def _memory(device: torch.device) -> tuple[int, int]:
    """Bytes that can be had on a CUDA device, those that the allocator caches included, and all bytes."""
    free, total = torch.cuda.mem_get_info(device)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + cached, total
