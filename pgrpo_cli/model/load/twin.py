"""A model of the policy's architecture and width in float32, with few layers and random weights.

It has at least two layers, and one of every type that the policy has; a small vocabulary; and windows that
are shorter than the prompts of the probe. All else that a packed row or a shared prefix could get wrong is as
in the policy.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from ..policy import Policy
from .random_model import random_tokenizer

_WINDOW = 8
"""The windows of the twin, in tokens. They are shorter than the longer prompt of the probe, so that they have
an effect.
"""
_WINDOWS = ("window", "window_size", "attention_chunk_size")
"""How the names of windows end; `window_size` is GPT-Neo's, `attention_chunk_size` Llama 4's."""


def twin(policy: Policy) -> Policy:
    """The twin of a policy, with an adapter on the same layers. Raises whatever the model's code raises."""
    from peft import get_peft_model

    base, tokenizer = policy.model.get_base_model(), random_tokenizer()
    config = copy.deepcopy(base.config)
    text = config.get_text_config()
    _cut_layers(text)
    for name, value in list(vars(text).items()):
        if name.endswith(_WINDOWS) and type(value) is int:
            setattr(text, name, min(value, _WINDOW))
        elif name.startswith("vocab_size"):  # Gemma 3n and 4 have a second embedding.
            setattr(text, name, len(tokenizer))
    text.vocab_size = len(tokenizer)
    text.bos_token_id, text.pad_token_id = 0, tokenizer.pad_token_id
    text.eos_token_id = tokenizer.eos_token_id
    adapter = copy.deepcopy(policy.model.peft_config["default"])
    adapter.r = 2
    with torch.random.fork_rng(devices=[policy.device] if policy.device.type == "cuda" else []):
        torch.manual_seed(0)
        with policy.device:
            model = _built(type(base), config, policy.config._attn_implementation)
        # With the usual initialisation attention is nearly uniform, and a wrong mask or position would hardly
        # change the result. Larger weights make it visible.
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.data.normal_(std=2 / weight.shape[-1] ** 0.5)
        if not isinstance(adapter.target_modules, str):
            here, there = (_decoder_name(one) for one in (base, model))
            adapter.target_modules = {_moved(name, here, there) for name in adapter.target_modules}
        return Policy(get_peft_model(model, adapter).eval(), tokenizer, policy.device)


def _decoder_name(model: Any) -> str:
    decoder = model.get_decoder()
    return next(name for name, module in model.named_modules() if module is decoder)


def _moved(name: str, here: str, there: str) -> str:
    """The name of a layer below `here` as it is below `there`; other names stay."""
    return f"{there}{name.removeprefix(here)}" if name.startswith(f"{here}.") else name


def _cut_layers(text: Any) -> None:
    """Keep the first layers, up to the first of the last type."""
    depth = text.num_hidden_layers
    kinds = list(getattr(text, "layer_types", None) or ["the only kind"] * depth)
    kept = min(depth, max(2, *(kinds.index(kind) + 1 for kind in kinds)))
    # In Gemma 3n and 4 the last layers take the keys of earlier ones of their type: all are there twice.
    shares = bool(getattr(text, "num_kv_shared_layers", 0))
    times = 2 if shares else 1
    # Settings with one entry per layer, such as the layer types, are cut to the layers that are kept.
    for name, value in list(vars(text).items()):
        if isinstance(value, list | tuple) and len(value) == depth:
            setattr(text, name, value[:kept] * times)
    text.num_hidden_layers = kept * times
    if shares:
        text.num_kv_shared_layers = kept


def _built(kind: Any, config: Any, attention: str) -> Any:
    """The model with random weights. Of a model for text and pictures only the text's part, where that is a
    model of its own.
    """
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": attention}
    text = config.get_text_config()
    if text is not config and type(text) in AutoModelForCausalLM._model_mapping:
        return AutoModelForCausalLM.from_config(text, **options)
    return kind._from_config(config, **options)
