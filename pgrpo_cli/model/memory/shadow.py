"""The policy of a recipe on the meta device: every module, shape and dtype as loaded, and not one weight."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import linear

from pgrpo_cli.recipe.schema import Recipe

from ..load.adapted_linear import use_adapted_linears
from ..load.adapter import attach_adapter
from ..load.base_model import load_config, quantization_config
from ..load.precision import compute_dtype
from ..nf4 import dequantize, nf4_layers
from ..policy import Policy

META = torch.device("meta")


@dataclass(frozen=True)
class _Tokenizer:
    """What the model's code asks a tokenizer for."""

    pad_token_id: int = 0
    eos_token_id: int = 0


def shadow_policy(recipe: Recipe, recipe_dir: Path) -> Policy:
    """Raises ModelError as loading the model itself does."""
    base = shadow_base(recipe, recipe_dir)
    base.requires_grad_(False)
    model = attach_adapter(base, recipe.adapter, on_meta=True)
    use_adapted_linears(model)
    return Policy(model, _Tokenizer(), META)


def shadow_base(recipe: Recipe, recipe_dir: Path) -> Any:
    """The base model, with quantized layers where transformers puts them."""
    from transformers import AutoModelForCausalLM
    from transformers.quantizers.auto import AutoHfQuantizer

    section = recipe.model
    config = load_config(section, recipe_dir)
    with META:
        model = AutoModelForCausalLM.from_config(
            config, dtype=compute_dtype(section, META), attn_implementation=section.attention
        )
    quantization = quantization_config(section, META)
    if quantization is not None:
        quantizer = AutoHfQuantizer.from_config(quantization, pre_quantized=False)
        quantizer.preprocess_model(model=model, device_map=None)
        quantizer.postprocess_model(model=model)
        for layer in nf4_layers(model):
            layer.__class__ = _shadow_class()
    model.config.use_cache = True
    return model


def _shadow_class() -> type[Any]:
    from bitsandbytes.nn import Linear4bit

    class ShadowLinear4bit(Linear4bit):
        """Multiplies as bitsandbytes does, by a dequantized copy that lives as long as the product."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return _Product.apply(x.to(self.compute_dtype), self).to(x.dtype)  # type: ignore[no-any-return]

    return ShadowLinear4bit


class _Product(torch.autograd.Function):
    """bitsandbytes' MatMul4Bit: keeps the weight alone, which the backward pass dequantizes again."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: Any) -> torch.Tensor:
        ctx.layer = layer
        return linear(x, dequantize(layer), layer.bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return gradient @ dequantize(ctx.layer), None
