"""The weights of rollouts on a CPU: one matrix per layer, prepared once per rollout.

A rollout multiplies by the same weights at every token, so on a CPU three preparations pay:

1. NF4 weights are dequantized once.
2. Weights are stored in the layout that oneDNN reads for products of few rows. These products are two to
   three times as fast as MKL's, which rearranges the weights at every product.
3. In float32 the adapter is merged into the weights. In bfloat16 it stays apart as two thin products, without
   the casts and temporaries of PEFT's forward pass. Merging would lose most of it there, because most entries
   of the adapter are smaller than the rounding error of the weights.

For CUDA see `lean` and `weight_copies`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from ..load.adapted_linear import lora_layers
from ..nf4 import nf4_layers, plain_weight
from ..policy import Policy
from .lean import lean_adapter, lean_norms
from .replaced import forwards_replaced
from .weight_copies import dequantized

_MERGED = (torch.float32, torch.float64)
"""Dtypes in which the adapter is merged into the weights."""
_ROWS_HINT = 64
"""The number of rows that the layout is made for. Other numbers give the same result, nearly as fast."""
_WORTHWHILE = 1.25
"""How many times as fast float32 must be to replace the compute dtype. Measurements vary by less."""


def fastest_dtype(policy: Policy) -> torch.dtype:
    """The faster dtype for products of few rows on this machine: the compute dtype or float32.

    The result is never less precise than the compute dtype. A CPU without bfloat16 instructions is several
    times slower in bfloat16 than in float32; a CPU that has them is twice as fast. Devices other than a CPU
    get the compute dtype.
    """
    dtype: torch.dtype = policy.model.get_base_model().dtype
    if policy.device.type != "cpu" or dtype not in (torch.bfloat16, torch.float16):
        return dtype
    seconds = {candidate: _seconds(candidate) for candidate in (dtype, torch.float32)}
    return torch.float32 if seconds[torch.float32] * _WORTHWHILE < seconds[dtype] else dtype


@contextmanager
def rollout_weights(policy: Policy, *, num_rows: int) -> Iterator[None]:
    """Within the block the model uses the weights that are fastest for rollouts of `num_rows` rows."""
    if policy.device.type == "cuda":
        workspace, dtype = policy.workspace, policy.model.get_base_model().dtype
        from_rows = policy.paths.copy_from_rows
        with (
            dequantized(policy.model, num_rows=num_rows, from_rows=from_rows, kept=workspace.weights),
            lean_adapter(policy.model, dtype, workspace.buffers),
            lean_norms(policy.model, dtype),
        ):
            yield
        return
    dtype = policy.paths.rollout_dtype or policy.model.get_base_model().dtype
    with (
        forwards_replaced(dict(_replacements(policy.model, dtype))),
        _other_parameters_in(policy.model, dtype),
    ):
        yield


def _replacements(model: Any, dtype: torch.dtype) -> Iterator[tuple[Any, Callable[..., Any]]]:
    """Forward functions for all layers with an adapter, all other NF4 layers, and the output layer."""
    product = _laid_out if _lays_out(dtype) else _as_stored
    inside = set()
    for layer in lora_layers(model):
        base = layer.base_layer
        inside.add(base)
        weight, bias = plain_weight(base, dtype), _cast(base.bias, dtype)
        adapter = _adapter(layer)
        if adapter is None:
            yield layer, partial(_linear, product(weight, bias))
        elif dtype in _MERGED:
            down, up = adapter
            yield layer, partial(_linear, product(torch.addmm(weight, up.to(weight), down.to(weight)), bias))
        else:
            down, up = adapter[0].to(dtype), adapter[1].to(dtype)
            yield layer, partial(_linear_and_adapter, product(weight, bias), down, up)
    for layer in {*nf4_layers(model), model.get_output_embeddings()} - inside:
        yield layer, partial(_linear, product(plain_weight(layer, dtype), _cast(layer.bias, dtype)))


def _adapter(layer: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The matrices A [r, in] and scale · B [out, r] of a layer; None while the adapter is off."""
    if layer.disable_adapters:
        return None
    (name,) = layer.active_adapters
    return layer.lora_A[name].weight, layer.scaling[name] * layer.lora_B[name].weight


def _cast(tensor: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    return None if tensor is None else tensor.to(dtype)


_Product = Callable[[torch.Tensor], torch.Tensor]
"""Rows [M, in] to rows [M, out]."""


def _as_stored(weight: torch.Tensor, bias: torch.Tensor | None) -> _Product:
    return lambda rows: linear(rows, weight, bias)


def _laid_out(weight: torch.Tensor, bias: torch.Tensor | None) -> _Product:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS_HINT)
    pointwise = torch.ops.mkldnn._linear_pointwise
    return lambda rows: pointwise(rows, packed, bias, "none", [], "")


def _lays_out(dtype: torch.dtype) -> bool:
    """Whether this build of PyTorch offers oneDNN's products with prepared weights for `dtype`.

    torch.compile uses them on a CPU, but they are not a public interface. So they are tried out here, and
    ordinary products are used where they are missing.
    """
    if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    try:
        weight, rows = torch.eye(32, dtype=dtype), torch.ones(2, 32, dtype=dtype)
        return torch.equal(_laid_out(weight, None)(rows), rows)
    except (AttributeError, RuntimeError):
        return False


def _linear(product: _Product, x: torch.Tensor) -> torch.Tensor:
    return product(x.flatten(0, -2)).view(*x.shape[:-1], -1)


def _linear_and_adapter(
    product: _Product, down: torch.Tensor, up: torch.Tensor, x: torch.Tensor
) -> torch.Tensor:
    """x W' + b + (x A') B': the layer's own product and two thin ones."""
    rows = x.flatten(0, -2)
    return product(rows).addmm_(rows @ down.t(), up.t()).view(*x.shape[:-1], -1)


@contextmanager
def _other_parameters_in(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Within the block, parameters outside of LoRA and NF4 layers (embeddings, norms) are in `dtype`."""
    held = {id(p) for layer in [*lora_layers(model), *nf4_layers(model)] for p in layer.parameters()}
    others = [
        p for p in model.parameters() if id(p) not in held and p.is_floating_point() and p.dtype != dtype
    ]
    before = [p.data for p in others]
    for p in others:
        p.data = p.data.to(dtype)
    try:
        yield
    finally:
        for p, data in zip(others, before, strict=True):
            p.data = data


def _seconds(dtype: torch.dtype) -> float:
    """Processor time of one thread for a product of some rows with a large weight.

    All runs on one machine should choose the same dtype. So the shapes are fixed, since those of the model
    may be too small to show a difference, and processor time is measured, since elapsed time depends on what
    else the machine is doing.
    """
    rows, weight = torch.ones(_ROWS_HINT, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        product = (_laid_out if _lays_out(dtype) else _as_stored)(weight, None)
        spent = []
        for _ in range(16):
            start = time.thread_time()
            product(rows)
            spent.append(time.thread_time() - start)
        return min(spent)
    finally:
        torch.set_num_threads(threads)
