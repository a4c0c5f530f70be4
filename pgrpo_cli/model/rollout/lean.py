"""The forward pass of rollouts on CUDA: the mathematics of training in fewer and faster kernels.

A token is decoded in thousands of small kernels, so their number is what decoding waits for next to the
weights. PEFT keeps the adapter in float32 and computes its part of every layer there, in seven kernels
around two products without tensor cores; transformers normalises in seven. Here an adapted layer is three
products, the adapter rounded beforehand, and a norm is one kernel. Both differ from training by roundings to
the compute dtype, as different batch shapes do.
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
    """Within the block plain LoRA layers compute in `dtype`, from copies made when it begins.

    Layers that are switched off, merged or more than plain LoRA are left alone.
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
    """The name of the layer's adapter if the layer is W·x + scaling·B·A·x at the moment, else nothing."""
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
    """Within the block RMS norms that scale by their weight are torch's fused ones.

    Which class of norm does so is tried out on some numbers: Gemma's scales by 1 + weight.
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
