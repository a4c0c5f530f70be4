"""Likeness in meaning: the cosine of sentence embeddings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from pgrpo_cli.errors import ModelError
from pgrpo_cli.pretrained.files import check_settings
from pgrpo_cli.pretrained.location import CONFIG, POOLING, Location
from pgrpo_cli.recipe.reward_base import PretrainedFields
from pgrpo_cli.recipe.rewards import EmbeddingReward

from .base import BuildContext
from .pretrained import ENCODER, Pretrained, load_pretrained, location_of
from .similarity import SimilarityFunction

Embedder = Callable[[Sequence[str]], list[Any]]
"""From texts to a vector of length 1 for each, as tensors on the CPU."""


def build_embedding(section: EmbeddingReward, context: BuildContext) -> SimilarityFunction:
    """The factory of `type: embedding`. Raises ModelError where the model cannot be loaded."""
    at = location_of(section, context.recipe_dir, section.label)
    embed = load_embedder(section, at, device=context.device)

    def compare(texts: Sequence[str], references: Sequence[str]) -> list[float]:
        distinct = list(dict.fromkeys((*texts, *references)))
        embeddings = dict(zip(distinct, embed(distinct), strict=True))
        cosines = (
            float(embeddings[text] @ embeddings[reference])
            for text, reference in zip(texts, references, strict=True)
        )
        return [min(1.0, max(0.0, cosine)) for cosine in cosines]

    return SimilarityFunction(section, compare)


def load_embedder(section: PretrainedFields, at: Location, *, device: Any = None) -> Embedder:
    """The sentence embedding model at that place. Raises ModelError.

    It pools as its folder says in the file of sentence-transformers, else by the mean over the tokens.
    `device`: as `load_pretrained` takes it.
    """
    first_token = _pools_first_token(at)
    # The pooler of BERT is not what is averaged.
    model = load_pretrained(ENCODER, section, at, unused="pooler.", device=device)
    return partial(_embed, model, first_token)


def _embed(model: Pretrained, first_token: bool, texts: Sequence[str]) -> list[Any]:
    from torch.nn.functional import normalize

    def pooled(outputs: Any, tensors: Mapping[str, Any]) -> Any:
        states = outputs.last_hidden_state.float()
        if first_token:
            return normalize(states[:, 0], dim=-1)
        mask = tensors["attention_mask"].unsqueeze(-1)
        return normalize((states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1), dim=-1)

    def encode(places: Sequence[int]) -> Mapping[str, Any]:
        return model.tokenized([texts[place] for place in places])

    return model.outputs([len(text) for text in texts], encode, pooled)


def _pools_first_token(at: Location) -> bool:
    path = check_settings(at, (CONFIG,)) / POOLING
    if not path.is_file():
        return False
    try:
        modes = json.loads(path.read_text(encoding="utf-8"))
        used = [key for key, on in modes.items() if key.startswith("pooling_mode_") and on is True]
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{at.where}: {path} cannot be read: {error}", remedy="Download the model again."
        ) from error
    known = {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}
    if len(used) != 1 or used[0] not in known:
        raise ModelError(
            f"{at.where}: {path} asks for {', '.join(used) or 'no pooling'}; known are "
            f"{' and '.join(known)}, one at a time",
            remedy="Name another embedding model.",
        )
    return known[used[0]]
