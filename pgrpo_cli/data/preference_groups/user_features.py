"""What users are clustered by: the numbers of their profiles, their words, or the meaning of their texts.

A space is what `centroids.py` stores without the centroids: enough to place any user in it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgrpo_cli.data.records import PromptRecord, UserProfile
from pgrpo_cli.data.row_problem import LeftOut
from pgrpo_cli.errors import DataError, ModelError
from pgrpo_cli.pretrained.location import located
from pgrpo_cli.recipe.reward_base import PretrainedFields
from pgrpo_cli.rewards import similarity

from .centroids import DECIMALS, VERSION, profile_vector, tfidf_vector, words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_WORDS = 500
"""Words that count: those of the most users. A centroid is stored as so many numbers."""
_TOO_COMMON = 0.95
_LEAST_SPREAD = 1e-9
_FEW_USERS = 10
MAX_TOKENS = 512
BATCH = 32
MAX_TEXTS = 64
"""Texts of a user that are looked at: the first ones in alphabetical order."""
_KEY = "data.preference_groups.model"


@dataclass(frozen=True)
class Space:
    """Users as points. `unit`: points have length 1. `place` gives a user's, from texts and profile.

    Raises RowProblem where nothing is known of the user.
    """

    stored: dict[str, Any]
    unit: bool
    place: Callable[[UserProfile, Sequence[str]], NDArray[np.float64]]


def texts_of_users(records: Sequence[PromptRecord]) -> dict[str, list[str]]:
    """What each user says in the user's messages of their prompts, by user in sorted order."""
    texts: dict[str, dict[str, None]] = defaultdict(dict)
    for record in records:
        if record.user_id is not None:
            texts[record.user_id].update(dict.fromkeys(texts_of(record)))
    # Sorted, so that the order of rows decides nothing.
    return {user: sorted(texts[user]) for user in sorted(texts)}


def texts_of(record: PromptRecord) -> list[str]:
    """The user's messages of one prompt."""
    return [message["content"] for message in record.messages if message["role"] == "user"]


def profile_space(profiles: Mapping[str, UserProfile], source: str) -> Space:
    """Standardised profile features that at least two of the users know and that differ between users."""
    import numpy as np

    known: dict[str, list[float]] = defaultdict(list)
    for profile in profiles.values():
        for name, value in profile.features.items():
            if np.isfinite(value):
                known[name].append(float(value))
    if not known:
        raise DataError(
            "data.preference_groups.features is 'profile', and the source "
            f"(type {source!r}) knows no numbers of its users",
            remedy="Set data.preference_groups.features to 'tfidf': it goes by the words of the prompts.",
        )
    spread = {name: float(np.std(np.sort(values))) for name, values in known.items() if len(values) > 1}
    names = sorted(name for name, value in spread.items() if value > _LEAST_SPREAD)
    stored = {
        "version": VERSION,
        "features": "profile",
        "feature_names": names,
        "means": [_rounded(np.mean(np.sort(known[name]))) for name in names],
        "scales": [_significant(spread[name]) for name in names],
    }

    def place(profile: UserProfile, texts: Sequence[str]) -> NDArray[np.float64]:
        if not profile.features:
            raise LeftOut("nothing is known of the user", "the source has no profile of them")
        return profile_vector(stored, profile.features)

    return Space(stored, False, place)


def tfidf_space(texts: Sequence[str], stop_words: frozenset[str]) -> Space:
    """Words of at least two of the users' `texts` and not of nearly all, by how few users have them."""
    vocabulary = word_weights(texts, stop_words)
    stored = {
        "version": VERSION,
        "features": "tfidf",
        "feature_names": list(vocabulary),
        "idf": list(vocabulary.values()),
    }

    def place(profile: UserProfile, texts: Sequence[str]) -> NDArray[np.float64]:
        return tfidf_vector(stored, profile.text or "\n".join(texts))

    return Space(stored, True, place)


def word_weights(texts: Sequence[str], stop_words: frozenset[str]) -> dict[str, float]:
    """Inverse document frequency, log((1 + n) / (1 + n with the word)) + 1, of the words that count."""
    import numpy as np

    users = Counter(word for text in texts for word in set(words(text)))
    least = 2 if len(texts) >= _FEW_USERS else 1
    counted = [
        word
        for word, count in users.items()
        if least <= count <= _TOO_COMMON * len(texts) and word not in stop_words
    ]
    kept = sorted(sorted(counted, key=lambda word: (-users[word], word))[:MAX_WORDS])
    return {word: _rounded(np.log((1 + len(texts)) / (1 + users[word])) + 1) for word in kept}


def embedding_space(embed: Callable[[Sequence[str]], NDArray[np.float64]], model: str) -> Space:
    """The mean of the embeddings of a user's texts, of length 1."""
    import numpy as np

    stored = {"version": VERSION, "features": "embedding", "model": model, "feature_names": []}

    def place(profile: UserProfile, texts: Sequence[str]) -> NDArray[np.float64]:
        mean = embed([profile.text] if profile.text else texts).mean(axis=0)
        length = np.sqrt((mean**2).sum())
        return np.round(mean / length if length else mean, DECIMALS)

    return Space(stored, True, place)


def _rounded(value: Any) -> float:
    return round(float(value), DECIMALS)


def _significant(value: float) -> float:
    """Rounded to digits that count, not to decimals: a scale must not become 0."""
    return float(f"{value:.{DECIMALS}g}")


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
    embed = similarity.load_embedder(section, at, device=torch.device("cpu"))
    return lambda texts: np.stack([vector.double().numpy() for vector in embed(list(texts)[:MAX_TEXTS])])
