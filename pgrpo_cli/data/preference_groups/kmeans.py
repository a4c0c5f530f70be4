"""k-means with a number of clusters that is chosen, and how far it is to be trusted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from pgrpo_cli.seeding import derive_seed

from .centroids import DECIMALS, nearest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_SEARCHED = 1000
"""Points that the search looks at, drawn by the seed; the clusters chosen are fitted to all."""
SHUFFLES = 19
"""Copies to beat: beating all of them by chance has probability 1/20."""
STABILITY_SEEDS = 5
STABLE = 0.6


@dataclass(frozen=True)
class Search:
    """How many clusters, and why.

    `silhouettes`: mean silhouette by number of clusters. `shuffled`: the best of each shuffled copy.
    `stability`: mean adjusted Rand index between clusterings of different seeds.
    """

    count: int
    silhouettes: dict[int, float]
    shuffled: tuple[float, ...]
    stability: float

    @property
    def better_than_chance(self) -> bool:
        return self.silhouettes[self.count] > max(self.shuffled)


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums in the order of one thread, whatever the machine has."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield


def search(
    points: NDArray[np.float64], counts: Sequence[int], *, n_init: int, seed: int, unit: bool
) -> Search:
    """The number of clusters among `counts` with the best silhouette; the least of equal ones.

    `points` [n, features], `unit` where their length is 1. Call within `one_thread`.
    """
    import numpy as np

    if len(points) > MAX_SEARCHED:
        rng = np.random.default_rng(derive_seed(seed, "clusters", "searched"))
        points = points[np.sort(rng.choice(len(points), MAX_SEARCHED, replace=False))]
        counts = [count for count in counts if count <= distinct(points)] or counts[:1]
    silhouettes = _silhouettes(points, counts, n_init, seed)
    count = max(silhouettes, key=lambda k: (silhouettes[k], -k))
    shuffled = [
        max(_silhouettes(_shuffled(points, seed, copy, unit), counts, n_init, seed).values())
        for copy in range(SHUFFLES)
    ]
    return Search(count, silhouettes, tuple(shuffled), _stability(points, count, n_init, seed))


def centroids_of(
    points: NDArray[np.float64], count: int, *, n_init: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(centroids [count, features] rounded, the largest cluster first; the cluster of each point)."""
    import numpy as np

    labels = _labels(points, count, n_init, seed, 0)
    means = [
        np.round(points[labels == cluster].mean(axis=0), DECIMALS) + 0.0 for cluster in np.unique(labels)
    ]
    sizes = np.bincount(nearest(np.array(means), points), minlength=len(means))
    order = sorted(range(len(means)), key=lambda cluster: (-sizes[cluster], means[cluster].tolist()))
    centroids = np.array([means[cluster] for cluster in order])
    return centroids, nearest(centroids, points)


def distinct(points: NDArray[np.float64]) -> int:
    """Number of different points."""
    import numpy as np

    return len(np.unique(np.round(points, DECIMALS), axis=0))


def _labels(points: Any, count: int, n_init: int, seed: int, number: int) -> NDArray[np.int64]:
    from sklearn.cluster import KMeans

    state = derive_seed(seed, "clusters", number) % 2**32
    return KMeans(count, n_init=n_init, random_state=state).fit(points).labels_  # type: ignore[no-any-return]


def _silhouettes(points: Any, counts: Sequence[int], n_init: int, seed: int) -> dict[int, float]:
    import numpy as np
    from sklearn.metrics import pairwise_distances, silhouette_score

    distances = pairwise_distances(points)
    np.fill_diagonal(distances, 0)
    found = {}
    for count in counts:
        labels = _labels(points, count, n_init, seed, 0)
        different = 2 <= len(np.unique(labels)) < len(points)
        score = silhouette_score(distances, labels, metric="precomputed") if different else 0.0
        found[count] = round(float(score), 4)
    return found


def _shuffled(points: NDArray[np.float64], seed: int, copy: int, unit: bool) -> NDArray[np.float64]:
    """Every column shuffled by itself: features keep their values, users lose what ties them together."""
    import numpy as np

    rng = np.random.default_rng(derive_seed(seed, "clusters", "shuffled", copy))
    mixed = rng.permuted(points, axis=0)
    if not unit:
        return mixed
    lengths = np.sqrt((mixed**2).sum(axis=1, keepdims=True))
    return mixed / np.where(lengths > 0, lengths, 1.0)


def _stability(points: Any, count: int, n_init: int, seed: int) -> float:
    from sklearn.metrics import adjusted_rand_score

    clusterings = [_labels(points, count, n_init, seed, number) for number in range(STABILITY_SEEDS)]
    indices = [adjusted_rand_score(one, other) for one, other in combinations(clusterings, 2)]
    return round(float(sum(indices)) / len(indices), 4)
