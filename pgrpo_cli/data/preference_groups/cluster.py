"""Preference groups by clustering users: fitted to the training half, stored for users who come later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pgrpo_cli.data.records import PromptRecord, UserProfile
from pgrpo_cli.data.row_problem import RowProblem
from pgrpo_cli.errors import DataError
from pgrpo_cli.recipe.data import ClusterGroups

from .base import AssignContext, Fitted, GroupOf, require_users, user_of
from .centroids import nearest_group
from .cluster_names import Features, cluster_names, distinctive
from .kmeans import SHUFFLES, STABLE, Search, centroids_of, distinct, one_thread, search
from .user_features import (
    Space,
    embedding_space,
    load_embedder,
    profile_space,
    texts_of,
    texts_of_users,
    tfidf_space,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TINY_USERS = 5
TINY_SHARE = 0.02
_LEAST_USERS = 3


def build_cluster(section: ClusterGroups, context: AssignContext) -> ClusterAssigner:
    """Clusters of users."""
    return ClusterAssigner(section, context)


@dataclass(frozen=True)
class ClusterAssigner:
    """Fits clusters to the users of the training half."""

    section: ClusterGroups
    context: AssignContext

    after_split = True

    def fit(self, records: Sequence[PromptRecord], held_out: Sequence[PromptRecord] = ()) -> Fitted:
        """Clusters of the users of `records`; other users belong to one by all that they ask in `held_out`.

        Raises DataError where the users cannot be told apart.
        """
        require_users(records, self.section.type)
        texts = texts_of_users(records)
        profiles = {user: self._profile(user) for user in texts}
        space = self._space(texts, profiles)
        placed = dict(_placed(space, texts, profiles))
        with one_thread():
            return self._clustered(space, placed, texts, texts_of_users(held_out))

    def _profile(self, user: str) -> UserProfile:
        return self.context.profiles.get(user, UserProfile())

    def _space(self, texts: Mapping[str, Sequence[str]], profiles: Mapping[str, UserProfile]) -> Space:
        if self.section.features == "profile":
            return profile_space(profiles, self.context.source)
        if self.section.features == "tfidf":
            return tfidf_space(_documents(texts, profiles), _stop_words())
        assert self.section.model is not None
        embed = load_embedder(self.section.model, self.context.recipe_dir)
        return embedding_space(embed, self.section.model)

    def _clustered(
        self,
        space: Space,
        placed: dict[str, NDArray[np.float64]],
        texts: Mapping[str, Sequence[str]],
        of_others: Mapping[str, Sequence[str]],
    ) -> Fitted:
        import numpy as np

        points = np.array(list(placed.values()))
        section, seed = self.section, self.context.seed
        counts = self._counts(points)
        found = search(points, counts, n_init=section.n_init, seed=seed, unit=space.unit)
        centroids, labels = centroids_of(points, found.count, n_init=section.n_init, seed=seed)
        features = self._distinctive(space, list(placed), points, labels, len(centroids), texts)
        names = cluster_names(features)
        stored = {**space.stored, "names": list(names), "centroids": centroids.tolist()}
        if section.features == "embedding":
            stored["feature_names"] = [f"dimension {number}" for number in range(centroids.shape[1])]
        sizes = np.bincount(labels, minlength=len(names)).tolist()
        of_users = {user: names[label] for user, label in zip(placed, labels, strict=True)}
        return Fitted(
            self._group_of(space, stored, of_users, of_others),
            _findings(section, found, names, sizes, features),
            stored,
            tuple(_warnings(found, names, sizes)),
        )

    def _counts(self, points: NDArray[np.float64]) -> list[int]:
        """Numbers of clusters to try: what is asked for, as far as there are different users."""
        users, different = len(points), distinct(points) if len(points) else 0
        most = min(users - 1, different)
        asked = self.section.count
        low, high = (asked, asked) if asked is not None else self.section.counts
        if users < _LEAST_USERS or most < low:
            raise DataError(
                f"{users} users with training prompts, {different} of them different by "
                f"{self.section.features!r}, cannot be put into {low} clusters",
                remedy="Lower data.preference_groups.count (or counts), or choose other features.",
            )
        return list(range(low, min(high, most) + 1))

    def _distinctive(
        self,
        space: Space,
        users: Sequence[str],
        points: NDArray[np.float64],
        labels: NDArray[np.int64],
        count: int,
        texts: Mapping[str, Sequence[str]],
    ) -> tuple[Features, ...]:
        import numpy as np

        if self.section.features == "embedding":
            # Dimensions mean nothing to a reader; the words of the users in a cluster do.
            profiles = {user: self._profile(user) for user in users}
            space = tfidf_space(_documents({user: texts[user] for user in users}, profiles), _stop_words())
            points = np.array([space.place(profiles[user], texts[user]) for user in users])
        return distinctive(space.stored["feature_names"], points, labels, count)

    def _group_of(
        self,
        space: Space,
        stored: Mapping[str, Any],
        of_users: dict[str, str],
        of_others: Mapping[str, Sequence[str]],
    ) -> GroupOf:
        def group_of(record: PromptRecord) -> str:
            user = user_of(record)
            if user not in of_users:
                texts = of_others.get(user) or texts_of(record)
                of_users[user] = nearest_group(stored, space.place(self._profile(user), texts))
            return of_users[user]

        return group_of


def _placed(
    space: Space, texts: Mapping[str, Sequence[str]], profiles: Mapping[str, UserProfile]
) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Users with their points; those of whom nothing is known are left out."""
    for user, of_user in texts.items():
        try:
            yield user, space.place(profiles[user], of_user)
        except RowProblem:
            continue


def _documents(texts: Mapping[str, Sequence[str]], profiles: Mapping[str, UserProfile]) -> list[str]:
    return [profiles[user].text or "\n".join(of_user) for user, of_user in texts.items()]


def _stop_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(ENGLISH_STOP_WORDS)


def _findings(
    section: ClusterGroups,
    found: Search,
    names: Sequence[str],
    sizes: Sequence[int],
    features: Sequence[Features],
) -> dict[str, Any]:
    """What the manifest says of the clusters."""
    return {
        "features": section.features,
        "users": sum(sizes),
        "count": found.count,
        "silhouettes": {str(count): value for count, value in found.silhouettes.items()},
        "shuffled_silhouette": max(found.shuffled),
        "better_than_chance": found.better_than_chance,
        "stability": found.stability,
        "clusters": [
            {"name": name, "users": size, "distinctive": dict(of_one)}
            for name, size, of_one in zip(names, sizes, features, strict=True)
        ],
    }


def _warnings(found: Search, names: Sequence[str], sizes: Sequence[int]) -> Iterator[str]:
    if not found.better_than_chance:
        yield (
            f"the clusters are no better than chance: silhouette {found.silhouettes[found.count]:.3f}, and "
            f"{max(found.shuffled):.3f} in one of {SHUFFLES} copies with shuffled features; try other "
            "features or do without clusters"
        )
    if found.stability < STABLE:
        yield (
            f"the clusters depend on the seed: mean adjusted Rand index {found.stability:.2f} between seeds, "
            "1 is always the same; try fewer clusters or other features"
        )
    users = sum(sizes)
    for name, size in zip(names, sizes, strict=True):
        if size < TINY_USERS or size < TINY_SHARE * users:
            yield f"cluster {name!r} has only {size} of {users} users; fewer clusters may serve them better"
