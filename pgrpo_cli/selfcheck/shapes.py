"""Models with random weights in the shapes of published ones: nothing is downloaded, and no copy of the whole
model is ever anywhere but on the device, where each layer is made and quantized by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pgrpo_cli.model.load.base_model import quantization_config
from pgrpo_cli.model.load.precision import compute_dtype
from pgrpo_cli.model.nf4 import nf4_layers
from pgrpo_cli.recipe.model import ModelSection

_STD = 0.02
"""Of the weights, as Qwen3's are initialised."""


@dataclass(frozen=True)
class Shape:
    """A Qwen3 model, and the work that it is tried with. `gpu_gib`: memory of the smallest GPU for it."""

    name: str
    layers: int
    hidden: int
    mlp: int
    heads: int
    key_value_heads: int
    head_size: int
    vocabulary: int
    tied: bool
    gpu_gib: float
    prompt_tokens: int
    completion_tokens: int
    checkpointing: bool = True
    rank: int = 16

    def config(self) -> Any:
        """As transformers has it."""
        from transformers import Qwen3Config

        return Qwen3Config(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.mlp,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_value_heads,
            head_dim=self.head_size,
            tie_word_embeddings=self.tied,
            max_position_embeddings=4096,
            initializer_range=_STD,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("8b", 36, 4096, 12288, 32, 8, 128, 151_936, False, 11, 256, 64),
        Shape("1.7b", 28, 2048, 6144, 16, 8, 128, 151_936, True, 5, 256, 64),
        Shape("tiny", 4, 256, 512, 4, 2, 64, 512, True, 0, 48, 16, checkpointing=False, rank=8),
    )
}
"""Qwen3-8B, Qwen3-1.7B, and a small one that a CPU computes in milliseconds."""


def usual_shape(device: torch.device) -> Shape:
    """The largest that the memory of a GPU holds; a small one on a CPU."""
    if device.type != "cuda":
        return SHAPES["tiny"]
    gib = torch.cuda.get_device_properties(device).total_memory / 2**30
    return next(shape for shape in SHAPES.values() if shape.gpu_gib <= gib)


@dataclass(frozen=True)
class PlainTokenizer:
    """What the product asks a tokenizer for. No completion ends before its limit: the token that would end
    it is not in the vocabulary.
    """

    vocabulary: int
    pad_token_id: int = 0

    @property
    def eos_token_id(self) -> int:
        return self.vocabulary

    def decode(self, ids: list[int], **_: Any) -> str:
        """A text whose length varies from completion to completion, for rewards to tell them apart."""
        return "".join("x" * (token % 7) for token in ids)


def build_base(shape: Shape, section: ModelSection, device: torch.device) -> Any:
    """The base model on `device`, quantized as the section says, with weights that are always the same."""
    from transformers import AutoModelForCausalLM
    from transformers.quantizers.auto import AutoHfQuantizer

    dtype = compute_dtype(section, device)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            shape.config(), dtype=dtype, attn_implementation=section.attention
        )
    quantization = quantization_config(section, device)
    if quantization is not None:
        quantizer = AutoHfQuantizer.from_config(quantization, pre_quantized=False)
        quantizer.preprocess_model(model=model, device_map=None)
        quantizer.postprocess_model(model=model)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
        torch.manual_seed(0)
        _fill(model, dtype, device)
    return model.eval()


def _fill(model: Any, dtype: torch.dtype, device: torch.device) -> None:
    """Give every parameter and buffer of a model without contents its contents, one after the other."""
    quantized = {id(layer) for layer in nf4_layers(model)}
    for module in model.modules():
        for name, old in list(module.named_parameters(recurse=False)):
            norm = old.dim() == 1
            values = torch.ones(old.shape, dtype=dtype, device=device)
            if not norm:
                values.normal_(std=_STD)
            module._parameters[name] = (
                _quantized(module, values)
                if id(module) in quantized
                else torch.nn.Parameter(values, requires_grad=False)
            )
    # Its buffers are computed, and no part of a model's files.
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config).to(device)
    model.tie_weights()
    empty = [n for n, t in [*model.named_parameters(), *model.named_buffers()] if t.device.type == "meta"]
    if empty:
        raise RuntimeError(f"the model that transformers builds has parts without contents: {empty[:3]}")


def _quantized(layer: Any, values: torch.Tensor) -> Any:
    """The weight of an NF4 layer, made as transformers makes it when it loads a file."""
    from bitsandbytes.nn import Params4bit

    weight: Any = Params4bit(values, requires_grad=False, **layer.weight.__dict__)
    return weight.to(values.device)
