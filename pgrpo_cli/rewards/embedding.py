"""Likeness in meaning: the cosine of sentence embeddings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pgrpo_cli.errors import ModelError
from pgrpo_cli.recipe.reward_similarity import EmbeddingReward

from .base import BuildContext
from .pretrained import ENCODER, Pretrained, load_pretrained, locate
from .similarity import SimilarityFunction

_POOLING = "1_Pooling/config.json"


def build_embedding(section: EmbeddingReward, context: BuildContext) -> SimilarityFunction:
    """The factory of `type: embedding`. Raises ModelError where the model cannot be loaded."""
    folder = locate(section, context.recipe_dir, section.label)
    first_token = _pools_first_token(_pooling_file(folder, section.revision), section.label)
    # The pooler of BERT is not what is averaged.
    model = load_pretrained(ENCODER, section, context.recipe_dir, section.label, unused="pooler.")

    def compare(texts: Sequence[str], references: Sequence[str]) -> list[float]:
        distinct = list(dict.fromkeys((*texts, *references)))
        embeddings = dict(zip(distinct, embed(model, distinct, first_token), strict=True))
        cosines = (
            float(embeddings[text] @ embeddings[reference])
            for text, reference in zip(texts, references, strict=True)
        )
        return [min(1.0, max(0.0, cosine)) for cosine in cosines]

    return SimilarityFunction(section, compare)


def embed(model: Pretrained, texts: Sequence[str], first_token: bool) -> list[Any]:
    """A vector of length 1 for each text, on the CPU."""
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


def _pooling_file(folder: str, revision: str | None) -> Path | None:
    """Where sentence-transformers says how to pool; None where it does not."""
    from transformers.utils import cached_file

    found = cached_file(
        folder,
        _POOLING,
        revision=revision,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return Path(found) if found else None


def _pools_first_token(path: Path | None, label: str) -> bool:
    if path is None:
        return False
    try:
        modes = json.loads(path.read_text(encoding="utf-8"))
        used = [key for key, on in modes.items() if key.startswith("pooling_mode_") and on is True]
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(
            f"reward {label!r}: {path} cannot be read: {error}", remedy="Download the model again."
        ) from error
    known = {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}
    if len(used) != 1 or used[0] not in known:
        raise ModelError(
            f"reward {label!r}: {path} asks for {', '.join(used) or 'no pooling'}; known are "
            f"{' and '.join(known)}, one at a time",
            remedy="Name another embedding model.",
        )
    return known[used[0]]
