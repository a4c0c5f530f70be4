"""The policy of a recipe on the meta device: the same modules, shapes and dtypes, without data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import linear

from pgrpo_cli.recipe.model import ModelSection
from pgrpo_cli.recipe.schema import Recipe

from ..load.adapted_linear import use_adapted_linears
from ..load.adapter import attach_adapter
from ..load.base_model import attention_explained, load_config, quantization_config
from ..load.frozen import freeze
from ..load.precision import compute_dtype
from ..nf4 import dequantize, nf4_layers
from ..policy import Policy

META = torch.device("meta")


@dataclass(frozen=True)
class _Tokenizer:
    """The attributes of a tokenizer that the code of training and sampling reads."""

    pad_token_id: int = 0
    eos_token_id: int = 0


def meta_policy(recipe: Recipe, recipe_dir: Path) -> Policy:
    """The policy with its adapter. Raises ModelError as loading the model does."""
    base = meta_base(recipe.model, recipe_dir)
    freeze(base)
    model = attach_adapter(base, recipe.adapter, on_meta=True)
    use_adapted_linears(model)
    return Policy(model, _Tokenizer(), META)


def meta_base(section: ModelSection, recipe_dir: Path) -> Any:
    """The base model, with quantized layers in the same places as transformers makes them."""
    from transformers import AutoModelForCausalLM
    from transformers.quantizers.auto import AutoHfQuantizer

    config = load_config(section, recipe_dir)
    with META, attention_explained(section):
        model = AutoModelForCausalLM.from_config(
            config, dtype=compute_dtype(section, META), attn_implementation=section.attention
        )
    quantization = quantization_config(section, META)
    if quantization is not None:
        quantizer = AutoHfQuantizer.from_config(quantization, pre_quantized=False)
        quantizer.preprocess_model(model=model, device_map=None)
        quantizer.postprocess_model(model=model)
        for layer in nf4_layers(model):
            layer.__class__ = _meta_linear_class()
    model.config.use_cache = True
    return model


def _meta_linear_class() -> type[Any]:
    from bitsandbytes.nn import Linear4bit

    class MetaLinear4bit(Linear4bit):
        """Multiplies by a dequantized copy that is freed after the product, as bitsandbytes does."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return _Product.apply(x.to(self.compute_dtype), self).to(x.dtype)  # type: ignore[no-any-return]

    return MetaLinear4bit


class _Product(torch.autograd.Function):
    """The same as bitsandbytes' MatMul4Bit: it keeps only the packed weight for the backward pass, which
    dequantizes it again.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: Any) -> torch.Tensor:
        ctx.layer = layer
        return linear(x, dequantize(layer), layer.bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return gradient @ dequantize(ctx.layer), None
