"""The forward pass of rollouts on CUDA: the same mathematics as in training, in fewer and faster kernels.

Decoding a token takes thousands of small kernels. Apart from reading the weights, their number decides how
long it takes. PEFT computes the adapter's part of a layer in float32: two products that use no tensor cores,
and seven kernels around them. transformers takes seven kernels for a norm. Here a layer with an adapter is
three products in the compute dtype, for which the adapter is rounded once beforehand, and a norm is one
kernel. The results differ from those of training by rounding to the compute dtype, as they do between batch
shapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear, rms_norm

from .buffers import Buffers
from .replaced import forwards_replaced


@contextmanager
def lean_adapter(model: nn.Module, dtype: torch.dtype, buffers: Buffers) -> Iterator[None]:
    """Within the block plain LoRA layers compute in `dtype`, with copies of the adapter that are made when
    the block begins.

    Layers whose adapter is disabled or merged, and variants of LoRA, keep their own forward pass.
    """
    layers: list[tuple[Any, str]] = [(m, name) for m in model.modules() for name in _plain_lora(m)]
    forwards = {}
    for i, (layer, name) in enumerate(layers):
        down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
        if down.dtype != dtype:
            down = buffers.store(f"lora_A.{i}", down.to(dtype))
            up = buffers.store(f"lora_B.{i}", up.to(dtype))
        forwards[layer] = partial(_forward, layer.base_layer, down, up, layer.scaling[name])
    with forwards_replaced(forwards):
        yield


def _plain_lora(layer: Any) -> list[str]:
    """The name of the layer's adapter if the layer currently computes W·x + scaling·B·A·x, else nothing."""
    from peft.tuners.lora.layer import LoraLayer

    if not isinstance(layer, LoraLayer) or layer.disable_adapters or layer.merged or layer.lora_variant:
        return []
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    plain = (
        len(names) == 1
        and isinstance(layer.get_base_layer(), nn.Linear)
        and isinstance(layer.lora_A[names[0]], nn.Linear)
        and layer.lora_B[names[0]].bias is None
    )
    return names if plain else []


def _forward(
    base: nn.Module, down: torch.Tensor, up: torch.Tensor, scaling: float, x: torch.Tensor
) -> torch.Tensor:
    """`x` [..., in] to [..., out]; `down` [r, in] and `up` [out, r] are the adapter's A and B."""
    result = base(x)
    low = linear(x.to(down.dtype), down).to(result.dtype)
    # In place: the base layer's output is a tensor of its own, and nothing here needs a gradient.
    rows = result.view(-1, result.shape[-1])
    rows.addmm_(low.view(-1, low.shape[-1]), up.t().to(result.dtype), alpha=scaling)
    return result


@contextmanager
def lean_norms(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Within the block RMS norms that scale by their weight use torch's fused kernel.

    Not every class named RMSNorm does so (Gemma's scales by 1 + weight). Each class is therefore compared
    with torch's kernel on some numbers.
    """
    usual: dict[type, bool] = {}
    norms: list[Any] = []
    for module in model.modules():
        kind = type(module)
        if not kind.__name__.endswith("RMSNorm") or "forward" in vars(module):
            continue
        if kind not in usual:
            usual[kind] = _is_usual_norm(module, dtype)
        if usual[kind]:
            norms.append(module)
    with forwards_replaced({norm: partial(_norm, norm.weight, _epsilon(norm)) for norm in norms}):
        yield


def _is_usual_norm(module: Any, dtype: torch.dtype) -> bool:
    weight, epsilon = getattr(module, "weight", None), _epsilon(module)
    if weight is None or weight.dim() != 1 or weight.dtype != dtype or epsilon is None:
        return False
    x = torch.linspace(-2, 3, 2 * len(weight), dtype=torch.float32, device=weight.device).view(2, -1)
    ours = rms_norm(x, weight.shape, weight.float(), epsilon)
    return torch.allclose(module(x).float(), ours, rtol=1e-3, atol=1e-5)


def _epsilon(module: Any) -> float | None:
    return getattr(module, "variance_epsilon", getattr(module, "eps", None))


def _norm(weight: torch.Tensor, epsilon: float | None, x: torch.Tensor) -> torch.Tensor:
    return rms_norm(x, weight.shape, weight, epsilon)
