"""Sentence embeddings by a model in a local folder: mean pooling, safetensors, no code of the model's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgrpo_cli.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_TOKENS = 512
BATCH = 32
MAX_TEXTS = 64
"""Texts of a user that are looked at: the first ones in alphabetical order."""

_KEY = "data.preference_groups.model"


def load_embedder(folder: Path) -> Callable[[Sequence[str]], NDArray[np.float64]]:
    """A function from texts to their embeddings [texts, dimensions] of length 1. Raises ModelError."""
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{_KEY}: {folder} is no folder with a config.json",
            remedy="Give a folder that transformers' save_pretrained wrote; nothing is downloaded.",
        )
    from transformers import AutoModel, AutoTokenizer

    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **local)
        model = AutoModel.from_pretrained(str(folder), use_safetensors=True, **local).eval().float()
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise ModelError(
            f"{_KEY}: {folder} cannot be loaded: {error}",
            remedy="A model that transformers knows, with tokenizer and weights in safetensors, is needed.",
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return lambda texts: _embed(model, tokenizer, list(texts)[:MAX_TEXTS])


def _embed(model: Any, tokenizer: Any, texts: list[str]) -> NDArray[np.float64]:
    import numpy as np
    import torch

    limit = min(MAX_TOKENS, tokenizer.model_max_length)
    rows: list[NDArray[np.float64]] = []
    for start in range(0, len(texts), BATCH):
        batch = tokenizer(
            texts[start : start + BATCH], padding=True, truncation=True, max_length=limit, return_tensors="pt"
        )
        with torch.no_grad():
            states = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        kept = batch["attention_mask"][..., None].double()
        mean = (states.last_hidden_state.double() * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)
        rows.append(torch.nn.functional.normalize(mean, dim=-1).numpy())
    return np.concatenate(rows)
