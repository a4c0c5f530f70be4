"""A linear layer and its LoRA adapter as one differentiable operation, for training.

PEFT's forward pass computes the adapter's product as a separate tensor, which it scales and casts, and in
half precision it also keeps a float32 copy of the input. Here the product is accumulated in place, in the
compute dtype, and the only copy of the input that is kept is the input itself:

    y = x W' + b + s (x A') B'          dx = g W + s (g B) A      dA = s (g B)' x      dB = s g' (x A')

NF4 weights are dequantized in both passes, and no pass keeps the dequantized weight. Adapters with dropout
keep PEFT's forward pass.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ..nf4 import plain_weight


def lora_layers(model: nn.Module) -> list[Any]:
    """PEFT's LoRA layers around an `nn.Linear`. Other layers (GPT-2's Conv1D) keep their own forward pass."""
    from peft.tuners.lora import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    return [layer for layer in layers if isinstance(layer.base_layer, nn.Linear)]


def use_adapted_linears(model: nn.Module) -> None:
    """Make the adapters of a PEFT model compute as described above."""
    for layer in lora_layers(model):
        (name,) = layer.active_adapters
        if not layer.lora_variant and isinstance(layer.lora_dropout[name], nn.Identity):
            layer.forward = partial(_forward, layer)


def _forward(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if layer.disable_adapters or layer.merged:
        return type(layer).forward(layer, x, *args, **kwargs)  # type: ignore[no-any-return]
    (name,) = layer.active_adapters
    down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
    # The view is made outside of the operation: of one made inside, models could not change the result in
    # place, as Falcon and Gemma 3n do.
    y = _AdaptedLinear.apply(x.flatten(0, -2), down, up, layer.base_layer, layer.scaling[name])
    return y.view(*x.shape[:-1], -1)  # type: ignore[no-any-return]


class _AdaptedLinear(torch.autograd.Function):
    """x [rows, in], A [r, in], B [out, r] -> [rows, out]. The base layer is frozen and gets no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, down: Tensor, up: Tensor, base: Any, scale: float) -> Tensor:
        # x A' is small, [rows, r], so it is kept for the gradient of B rather than computed again.
        low = x @ down.t().to(x.dtype)
        y = linear(x, plain_weight(base, x.dtype), base.bias)
        y.addmm_(low, up.t().to(x.dtype), alpha=scale)
        ctx.save_for_backward(x, low, down, up)
        ctx.base, ctx.scale = base, scale
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, low, down, up = ctx.saved_tensors
        grad_low = (grad @ up.to(x.dtype)).mul_(ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ plain_weight(ctx.base, x.dtype)
            grad_x = grad_x.addmm_(grad_low, down.to(x.dtype))
        grad_down = (grad_low.t() @ x).to(down.dtype)
        grad_up = (grad.t() @ low).mul_(ctx.scale).to(up.dtype)
        return grad_x, grad_down, grad_up, None, None
