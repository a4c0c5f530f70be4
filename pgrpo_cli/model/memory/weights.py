"""Bytes of what stays in memory during the whole run: weights by part, adapter and optimizer state."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from pgrpo_cli.recipe.training import Optimizer

from ..nf4 import nf4_layers
from ..policy import Policy

PARTS = ("embeddings", "attention", "MLP", "norms", "output layer", "other weights")
"""The parts of the base model, in the order of a table."""

_BLOCK, _OUTER_BLOCK = 64, 256
"""Block sizes: weights per quantization constant, and, with double quantization, constants per constant."""
_CODES, _OUTER_CODES = 16, 256
"""Entries of the code books of both quantizations, which each layer keeps."""
_SMALLEST_8BIT = 4096
"""Tensors with fewer entries keep their optimizer state in 32 bits (bitsandbytes' `min_8bit_size`)."""
_BLOCK_8BIT = 256


def base_weights(policy: Policy) -> Counter[str]:
    """Bytes of the base model's parameters and buffers by part; tied weights are counted once."""
    base = policy.model.get_base_model()
    quantized = {
        id(layer.weight): nf4_bytes(layer.in_features * layer.out_features, layer.weight.compress_statistics)
        for layer in nf4_layers(base)
    }
    sizes: Counter[str] = Counter()
    for part, tensor in _base_tensors(base):
        sizes[part] += quantized.get(id(tensor)) or tensor.numel() * tensor.element_size()
    return sizes


def base_parameters(policy: Policy) -> Counter[str]:
    """Number of the base model's parameters by part; tied weights are counted once."""
    base = policy.model.get_base_model()
    counts: Counter[str] = Counter()
    for part, tensor in _base_tensors(base):
        if isinstance(tensor, torch.nn.Parameter):
            counts[part] += tensor.numel()
    return counts


def nf4_bytes(numel: int, double: bool) -> int:
    """Bytes of a Linear4bit's weight with `numel` entries: half a byte per entry, and the constants of its
    blocks. With `double` quantization these constants are quantized too.
    """
    blocks = math.ceil(numel / _BLOCK)
    tables = 4 * _CODES
    if not double:
        return math.ceil(numel / 2) + 4 * blocks + tables
    outer = 4 * math.ceil(blocks / _OUTER_BLOCK) + 4
    return math.ceil(numel / 2) + blocks + outer + tables + 4 * _OUTER_CODES


def dequantized_bytes(policy: Policy) -> int:
    """Bytes of a copy of all NF4 weights in the compute dtype."""
    layers = nf4_layers(policy.model.get_base_model())
    return sum(layer.in_features * layer.out_features * layer.compute_dtype.itemsize for layer in layers)


def adapter_bytes(policy: Policy) -> int:
    """Bytes of the adapter's weights; its gradients take as many."""
    return sum(p.numel() * p.element_size() for p in policy.trainable.values())


def optimizer_bytes(parameters: Iterable[torch.Tensor], settings: Optimizer) -> int:
    """Bytes of AdamW's two moments."""
    if settings.type == "adamw":
        return sum(2 * p.numel() * p.element_size() for p in parameters)
    return sum(
        2 * p.numel() + 2 * 4 * math.ceil(p.numel() / _BLOCK_8BIT)
        if p.numel() >= _SMALLEST_8BIT
        else 2 * 4 * p.numel()
        for p in parameters
    )


def _base_tensors(base: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters and buffers of the base model with their parts, each once, without the adapter's."""
    from peft.tuners.lora import LoraLayer

    seen: set[int] = set()
    adapter = {
        id(p)
        for layer in base.modules()
        if isinstance(layer, LoraLayer)
        for name in layer.adapter_layer_names
        for p in _parameters(getattr(layer, name))
    }
    for path, module in _with_parts(base, base.get_input_embeddings(), base.get_output_embeddings()):
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None and id(tensor) not in seen | adapter:
                seen.add(id(tensor))
                yield path, tensor


def _parameters(adapters: Any) -> Iterator[torch.nn.Parameter]:
    if isinstance(adapters, torch.nn.Module):
        yield from adapters.parameters()


def _with_parts(
    module: Any, embeddings: Any, output: Any, part: str | None = None
) -> Iterator[tuple[str, Any]]:
    """All modules below `module` with their parts. The outermost module with a known name decides."""
    if module is embeddings:
        part = "embeddings"
    elif module is output:
        part = "output layer"
    part = part or _part_of(type(module).__name__.lower())
    yield part or "other weights", module
    for child in module.children():
        yield from _with_parts(child, embeddings, output, part)


def _part_of(class_name: str) -> str | None:
    """Attention, MLP or norms, by the names that transformers gives to their classes."""
    # Names of whole layers may have such words too: JambaAttentionDecoderLayer, Qwen3MoeDecoderLayer.
    if class_name.endswith("layer"):
        return None
    if "attention" in class_name or "attn" in class_name:
        return "attention"
    if "norm" in class_name:
        return "norms"
    known = any(word in class_name for word in ("mlp", "experts", "feedforward"))
    return "MLP" if known or class_name.endswith(("moe", "moeblock")) else None
