"""Loads what the recipe's `model` section names: weights, configuration and tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pgrpo_cli.errors import ModelError
from pgrpo_cli.paths import path_of
from pgrpo_cli.pretrained import loading
from pgrpo_cli.pretrained.location import MODEL_ID, Location, locate
from pgrpo_cli.recipe.model import ModelSection

from .precision import compute_dtype
from .random_model import random_config, random_model, random_tokenizer

_TEMPLATE_KEY = "model.chat_template"
_MAX_TEMPLATE = 200_000


def load_tokenizer(section: ModelSection, recipe_dir: Path) -> Any:
    """The tokenizer of the model, with a chat template and a padding token, or ModelError."""
    random = section.id == "random"
    tokenizer = random_tokenizer() if random else loading.load_tokenizer(locate(section, recipe_dir))
    if section.chat_template is not None:
        tokenizer.chat_template = _chat_template(section, recipe_dir)
    if not tokenizer.chat_template:
        raise ModelError(
            f"{MODEL_ID}: {section.id!r} has no chat template, so prompts cannot be rendered as a "
            "conversation",
            remedy="Use the instruct or chat version of the model, or set model.chat_template.",
        )
    return tokenizer


def fit_tokenizer(tokenizer: Any, base: Any, section: ModelSection) -> None:
    """Raise ModelError if the tokenizer is not the model's. A padding token that has no embedding, because it
    was added to the tokenizer alone, is replaced: padding is masked, so that any token serves.
    """
    rows = base.get_input_embeddings().weight.shape[0]
    loading.check_vocabulary(f"{MODEL_ID}: {section.id!r}", tokenizer, rows)
    if tokenizer.pad_token_id >= rows:
        end = tokenizer.eos_token_id
        tokenizer.pad_token_id = end if end is not None and end < rows else 0


def _chat_template(section: ModelSection, recipe_dir: Path) -> str:
    """The text of `model.chat_template`."""
    if section.chat_template_file is None:
        return section.chat_template or ""
    path = path_of(section.chat_template_file, _TEMPLATE_KEY, recipe_dir)
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_TEMPLATE + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ModelError(
            f"{_TEMPLATE_KEY}: {path} cannot be read: {why}",
            remedy="Check the path; it starts at the recipe's folder.",
        ) from error
    if len(text) > _MAX_TEMPLATE:
        raise ModelError(
            f"{_TEMPLATE_KEY}: {path} has more than {_MAX_TEMPLATE:,} characters",
            remedy="Name the file of a chat template.",
        )
    return text


@dataclass(frozen=True)
class Limits:
    """The limits of a model, read from its configuration; None if the configuration does not say.

    `context`: the number of tokens of the longest sequence. `vocabulary`: the number of tokens that have an
    embedding.
    """

    context: int | None = None
    vocabulary: int | None = None


def model_limits(section: ModelSection, recipe_dir: Path) -> Limits:
    """The limits of the recipe's model. Raises ModelError."""
    config = load_config(section, recipe_dir).get_text_config()
    return Limits(_context(config), getattr(config, "vocab_size", None))


def _context(config: Any) -> int | None:
    """The longest sequence whose positions are encoded as those of all shorter ones.

    LongRoPE (Phi-3, Phi-4) has other frequencies beyond the original context, and it takes them for a whole
    batch if one of its sequences is longer: a completion would depend on its neighbours, and updates would
    compute other log-probabilities than rollouts.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(kind for kind in rope.values() if isinstance(kind, dict))]
    original = [
        kind.get("original_max_position_embeddings") for kind in kinds if kind.get("rope_type") == "longrope"
    ]
    limits = [getattr(config, "max_position_embeddings", None), *original]
    return min((limit for limit in limits if limit is not None), default=None)


def load_config(section: ModelSection, recipe_dir: Path) -> Any:
    """The model's configuration, read without its weights."""
    if section.id == "random":
        return random_config(section.random)
    return loading.load_config(locate(section, recipe_dir))


def load_base_model(section: ModelSection, recipe_dir: Path, device: torch.device) -> Any:
    """The base model on `device`, quantized as the recipe says."""
    if section.id == "random":
        return rebuild(random_model(section.random), section, device)
    at = locate(section, recipe_dir)
    with attention_explained(section):
        if at.gguf_file:
            return rebuild(_load(at, section, device), section, device)
        quantization = quantization_config(section, device)
        return _load(at, section, device, quantization_config=quantization, device_map={"": device})


@contextmanager
def attention_explained(section: ModelSection) -> Iterator[None]:
    """Raise ModelError with the remedy where a model does not have the attention of the recipe (Gemma 2)."""
    try:
        yield
    except (ModelError, ValueError) as error:
        if "does not support an attention implementation" not in str(error):
            raise
        raise ModelError(
            f"model.attention: {section.id!r} has no attention of the kind {section.attention}",
            remedy="Set model.attention to eager, which every model has.",
        ) from error


def _load(at: Location, section: ModelSection, device: torch.device, **options: Any) -> Any:
    return loading.load_model(at, "AutoModelForCausalLM", **options, **_options(section, device))


def rebuild(model: Any, section: ModelSection, device: torch.device) -> Any:
    """A new model with the config and weights of `model`, in the section's dtype and quantization.

    A model that transformers has read from GGUF keeps a quantization config, with which it can neither be
    saved nor quantized again.
    """
    config = model.config
    config_dict = {k: v for k, v in config.to_dict().items() if k != "quantization_config"}
    return type(model).from_pretrained(
        None,
        config=type(config)(**config_dict),
        state_dict=model.state_dict(),
        quantization_config=quantization_config(section, device),
        device_map={"": device},
        **_options(section, device),
    )


def _options(section: ModelSection, device: torch.device) -> dict[str, Any]:
    return {"dtype": compute_dtype(section, device), "attn_implementation": section.attention}


def quantization_config(section: ModelSection, device: torch.device) -> Any:
    """The quantization that transformers applies while it loads the model; None: no quantization."""
    if section.quantization.type == "none":
        return None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=section.quantization.double,
        bnb_4bit_compute_dtype=compute_dtype(section, device),
    )
