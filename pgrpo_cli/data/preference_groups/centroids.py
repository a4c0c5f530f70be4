"""Clusters as they are stored, and the cluster of a user, known or new: arithmetic only.

data/preference_groups.json
    version         1
    features        profile | tfidf | embedding
    names           of the clusters, the largest first
    feature_names   of the columns of every centroid
    centroids       a row a cluster
    means, scales   profile: (value - mean) / scale is a feature's coordinate, 0 where it is unknown
    idf             tfidf: weight of each word
    model           embedding: the folder of the model, as the recipe names it
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pgrpo_cli.rewards.text import UNSPACED
from pgrpo_cli.rewards.text import words as words_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

VERSION = 1
DECIMALS = 6
"""Everything stored is rounded, and assignments are made by what is stored: the last bits of a sum, which
differ between machines, decide nothing."""

_APOSTROPHE = re.compile("['’]")
_UNSPACED = re.compile(f"[{UNSPACED}]")


def nearest_group(stored: Mapping[str, Any], vector: ArrayLike) -> str:
    """The name of the centroid nearest to `vector` [features]; the larger cluster's where two are as near."""
    import numpy as np

    centroids = np.asarray(stored["centroids"], dtype=np.float64)
    return str(stored["names"][int(nearest(centroids, np.asarray(vector, dtype=np.float64)[None])[0])])


def nearest(centroids: NDArray[np.float64], vectors: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each row of `vectors` [n, features] the row of `centroids` [k, features] nearest to it."""
    import numpy as np

    distances = [((vectors - centroid) ** 2).sum(axis=1) for centroid in centroids]
    return np.argmin(np.round(distances, DECIMALS), axis=0)


def profile_vector(stored: Mapping[str, Any], features: Mapping[str, float]) -> NDArray[np.float64]:
    """Standardised features of a user [features]; one that is not known of them is 0, the average."""
    import numpy as np

    triples = zip(stored["feature_names"], stored["means"], stored["scales"], strict=True)
    known = {name: value for name, value in features.items() if math.isfinite(value)}
    return np.array([(known[name] - mean) / scale if name in known else 0.0 for name, mean, scale in triples])


def tfidf_vector(stored: Mapping[str, Any], text: str) -> NDArray[np.float64]:
    """(1 + log count) · idf of the known words of a text, scaled to length 1 [features]; 0 without any."""
    import numpy as np

    counts = Counter(words(text))
    weights = np.array(
        [
            (1 + math.log(counts[word])) * idf if counts[word] else 0.0
            for word, idf in zip(stored["feature_names"], stored["idf"], strict=True)
        ]
    )
    length = math.sqrt(float((weights**2).sum()))
    return weights / length if length else weights


def words(text: str) -> list[str]:
    """Words of two letters and more, without case and what an apostrophe cuts off; each character of a script
    that writes words without blanks.
    """
    found = words_of(_APOSTROPHE.sub(" ", text.casefold()))
    return [word for word in found if len(word) > 1 or _UNSPACED.match(word)]
