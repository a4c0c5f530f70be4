"""Names of clusters from what sets them apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pgrpo_cli.data.row_problem import MAX_GROUP_LENGTH

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHOWN = 5
_IN_NAME = 2
# A further feature enters a name where it is at least so much of the first.
_COUNTS_TOO = 0.5
_LEAST = 1e-6

Features = tuple[tuple[str, float], ...]
"""(feature, how far the cluster's mean lies above that of all users), the most distinctive first."""


def distinctive(
    feature_names: Sequence[str], points: NDArray[np.float64], labels: NDArray[np.int64], count: int
) -> tuple[Features, ...]:
    """The features that set each cluster apart: those above average, or those below where none is.

    `points` [n, features], `labels` [n] in 0 … count - 1.
    """
    import numpy as np

    feature_names = [_printable(name) for name in feature_names]
    overall = points.mean(axis=0)
    found = []
    for cluster in range(count):
        members = points[labels == cluster]
        above = np.round(members.mean(axis=0) - overall, 4) if len(members) else np.zeros_like(overall)
        pairs = sorted(
            zip(feature_names, above.tolist(), strict=True), key=lambda pair: (-abs(pair[1]), pair[0])
        )
        high = [pair for pair in pairs if pair[1] > _LEAST]
        low = [pair for pair in pairs if pair[1] < -_LEAST]
        found.append(tuple((high or low)[:SHOWN]))
    return tuple(found)


def cluster_names(features: Sequence[Features]) -> tuple[str, ...]:
    """A name a cluster, such as `Horror, Thriller` or `less Drama`; no two are the same.

    Where names collide, more features tell them apart, and where they cannot, a number does.
    """
    lengths = [_IN_NAME] * len(features)
    for _ in range(SHOWN - _IN_NAME):
        names = [_joined(of_one, length) for of_one, length in zip(features, lengths, strict=True)]
        clashing = {name for name in names if names.count(name) > 1}
        lengths = [length + (name in clashing) for name, length in zip(names, lengths, strict=True)]
    unique: list[str] = []
    for of_one, length in zip(features, lengths, strict=True):
        name, number = _joined(of_one, length), 2
        base = name
        while name in unique:
            name, number = f"{base} {number}", number + 1
        unique.append(name)
    return tuple(unique)


def _joined(features: Features, length: int) -> str:
    if not features:
        return "average"
    least = _COUNTS_TOO * abs(features[0][1]) if length == _IN_NAME else 0.0
    kept = [(name, value) for name, value in features[:length] if abs(value) >= least]
    text = ", ".join(name if value > 0 else f"less {name}" for name, value in kept)
    return text[: MAX_GROUP_LENGTH - 10]


def _printable(name: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in name).strip() or "unnamed"
