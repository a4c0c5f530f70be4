"""The tiny random model as a GGUF file, so that every format can be tried without a download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pgrpo_cli.model.load.random_model import random_model, random_tokenizer
from pgrpo_cli.recipe.model import RandomModel

from .gguf_file import Gguf, Type, get_tensor_name_map, write_new
from .lora_tensors import interleaved

_CONTROL, _NORMAL = 3, 1
_ARCHITECTURE = "llama"


def write_random(shape: RandomModel, path: Path) -> Gguf:
    """Write the random model of that shape to `path`, in float32."""
    from gguf import MODEL_ARCH

    model = random_model(shape)
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, shape.num_layers)
    heads = {
        "q_proj": model.config.num_attention_heads,
        "k_proj": model.config.num_key_value_heads,
    }
    tensors: dict[str, Any] = {}
    for name, weight in model.named_parameters():
        array = weight.detach().numpy()
        count = next((count for part, count in heads.items() if f".{part}." in name), None)
        if count is not None:
            order = interleaved(len(array), count)
            array = array if order is None else array[order]
        tensors[str(names.get_name(name, try_suffixes=(".weight",)))] = (
            np.ascontiguousarray(array),
            Type.F32,
        )
    write_new(path, _ARCHITECTURE, {**_shape(model.config), **_vocabulary()}, tensors)
    return Gguf(path)


def _shape(config: Any) -> dict[str, Any]:
    values = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": config.hidden_size // config.num_attention_heads,
        "rope.freq_base": float(config.rope_parameters["rope_theta"]),
        "vocab_size": config.vocab_size,
    }
    return {f"{_ARCHITECTURE}.{key}": value for key, value in values.items()}


def _vocabulary() -> dict[str, Any]:
    tokenizer = random_tokenizer()
    ids = tokenizer.get_vocab()
    special = set(tokenizer.get_added_vocab())
    tokens = sorted(ids, key=ids.__getitem__)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [_CONTROL if token in special else _NORMAL for token in tokens],
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.eos_token_id": tokenizer.eos_token_id,
        "tokenizer.ggml.padding_token_id": tokenizer.pad_token_id,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": tokenizer.chat_template,
    }
