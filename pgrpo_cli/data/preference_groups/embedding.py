"""Sentence embeddings of users' texts, by a model in a local folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pgrpo_cli.errors import ModelError
from pgrpo_cli.pretrained.location import located
from pgrpo_cli.recipe.reward_pretrained import PretrainedFields
from pgrpo_cli.rewards import embedding

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_TOKENS = 512
BATCH = 32
MAX_TEXTS = 64
"""Texts of a user that are looked at: the first ones in alphabetical order."""

_KEY = "data.preference_groups.model"


def load_embedder(model: str, start: Path) -> Callable[[Sequence[str]], NDArray[np.float64]]:
    """A function from texts to their embeddings [texts, dimensions] of length 1. Raises ModelError.

    `model`: a folder; a relative one starts at `start`.
    """
    import numpy as np
    import torch

    at = located(_KEY, model, start)
    if at.folder is None:
        raise ModelError(
            f"{_KEY}: no folder {model!r}",
            remedy="Give a folder that transformers' save_pretrained wrote; nothing is downloaded.",
        )
    section = PretrainedFields(model=model, max_tokens=MAX_TOKENS, batch_size=BATCH)
    # Everywhere the same numbers: who is in which cluster must not depend on the machine's GPU.
    embed = embedding.load_embedder(section, at, device=torch.device("cpu"))
    return lambda texts: np.stack([vector.double().numpy() for vector in embed(list(texts)[:MAX_TEXTS])])
