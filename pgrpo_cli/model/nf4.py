"""NF4 layers of bitsandbytes: keep their gradients on a CPU, and decode from one dequantized copy.

On a CPU with AVX512-BF16 bitsandbytes (0.50) repacks 4-bit weights for inference during the first forward
pass without gradients in eval mode; backward passes through the repacked weights silently lose the gradient.
`keep_differentiable` switches the repacking off. `dequantized` makes up for its speed where it counts: a
rollout multiplies by the same weights at every token, so it dequantizes them once.
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
    """The layer's weight, shape [out, in], in its compute dtype."""
    from bitsandbytes.functional import dequantize_4bit

    weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return weight.to(layer.compute_dtype or weight.dtype)


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
def dequantized(
    model: nn.Module, *, num_rows: int = 1, kept: dict[int, torch.Tensor] | None = None
) -> Iterator[None]:
    """Within the block, NF4 layers multiply by a dequantized copy (2 or 4 bytes a weight of memory).

    On a CPU always; on a CUDA device where `copy_pays` for `num_rows` rows, else bitsandbytes' own kernels
    serve. `kept`: the copies by layer, for the caller to keep for the next time.
    """
    layers = nf4_layers(model)
    copies = {} if kept is None else kept
    if layers and not copies and not _copy_is_due(layers, num_rows):
        layers = []
    try:
        for i, layer in enumerate(layers):
            if i not in copies:
                copies[i] = dequantize(layer)
    except torch.OutOfMemoryError:
        copies.clear()
        layers = []
    for i, layer in enumerate(layers):
        layer.forward = partial(_forward, copies[i], layer.bias)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _forward(weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    return linear(x.to(weight.dtype), weight, bias).to(x.dtype)


def _copy_is_due(layers: list[Any], num_rows: int) -> bool:
    device = layers[0].weight.device
    if device.type != "cuda":
        return True
    states = [(layer.weight.quant_state, layer.compute_dtype) for layer in layers]
    copy_bytes = sum(math.prod(state.shape) * (dtype or state.dtype).itemsize for state, dtype in states)
    return copy_pays(num_rows, copy_bytes, *_memory(device))


def _memory(device: torch.device) -> tuple[int, int]:
    """Bytes that can be had on a CUDA device, those that the allocator caches included, and all bytes."""
    free, total = torch.cuda.mem_get_info(device)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + cached, total
