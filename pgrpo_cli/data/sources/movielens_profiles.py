"""A user's taste in genres and tags, from the ratings that precede what is held out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pgrpo_cli.data.records import UserProfile

from .movielens_films import Films
from .movielens_ratings import Ratings
from .movielens_split import UserSplit
from .movielens_tags import Tags

# So many films at the user's mean rating are added to every genre and tag: few films weigh little.
SHRINKAGE = 5
LIKED_TITLES = 20


@dataclass(frozen=True)
class Taste:
    """A profile, and the user's genres from the best liked to the least."""

    profile: UserProfile
    genres: tuple[str, ...]


class TasteReader:
    """Profiles of users of one collection. `least_liked` is a rating in half stars."""

    def __init__(self, ratings: Ratings, films: Films, tags: Tags, least_liked: float) -> None:
        self._ratings = ratings
        self._films = films
        self._tags = tags
        self._least_liked = least_liked
        # One object for each weight that occurs: hundreds of thousands of profiles hold dozens each.
        self._weights_seen: dict[float, float] = {}

    def __call__(self, split: UserSplit, cut: int | None) -> Taste:
        """Features in stars: (sum over a genre's films of rating - the user's mean) / (films + SHRINKAGE).

        Genres and tags of which the user rated no film are left out; a tag counts from when a film got it,
        if that precedes what is held out. The text names the films liked last.
        """
        rows = slice(split.start, split.profile)
        film, half_stars = self._ratings.film_N[rows], self._ratings.half_stars_N[rows].astype(np.int64)
        has_genre, total = self._films.has_genre_FK[film], int(half_stars.sum())
        counts = has_genre.sum(axis=0)
        genres = self._weights(self._films.genre_names, half_stars @ has_genre, counts, total, len(film))
        tags = self._tag_weights(film, half_stars, self._until(split, cut))
        liked = film[half_stars >= self._least_liked][-LIKED_TITLES:].tolist()
        text = "; ".join(self._films.shown[index] for index in liked)
        return Taste(UserProfile({**genres, **tags}, text), tuple(genres))

    def _until(self, split: UserSplit, cut: int | None) -> int:
        """The moment before which the profile ends."""
        if cut is not None and split.profile == split.seen:
            return cut
        return int(self._ratings.time_N[split.held_out[0]])

    def _tag_weights(
        self, film: NDArray[np.int32], half_stars: NDArray[np.int64], until: int
    ) -> dict[str, float]:
        if not self._tags.names:
            return {}
        begin, end = self._tags.starts_F1[film], self._tags.starts_F1[film + 1]
        lengths = end - begin
        # All pairs of these films: begin, begin + 1, ... end - 1 of each, one after the other.
        pairs = np.repeat(begin - np.concatenate(([0], np.cumsum(lengths)[:-1])), lengths)
        pairs += np.arange(len(pairs))
        stars = np.repeat(half_stars, lengths)
        given = self._tags.since_M[pairs] < until
        pairs, stars = pairs[given], stars[given]
        tag, size = self._tags.tag_M[pairs], len(self._tags.names)
        sums = np.bincount(tag, weights=stars, minlength=size).astype(np.int64)
        counts = np.bincount(tag, minlength=size)
        return self._weights(self._tags.names, sums, counts, int(half_stars.sum()), len(film))

    def _weights(
        self,
        names: tuple[str, ...],
        sums: NDArray[np.int64],
        counts: NDArray[np.int64],
        total: int,
        rated: int,
    ) -> dict[str, float]:
        """Weights in stars by name, the greatest first. Sums and `total` are in half stars."""
        found = []
        for name, of_name, count in zip(names, sums.tolist(), counts.tolist(), strict=True):
            if count:
                # Whole numbers as long as possible: the same bits on every machine.
                above_mean = (of_name * rated - total * count) / (2 * rated)
                weight = round(above_mean / (count + SHRINKAGE), 4) or 0.0
                found.append((-weight, -count, name, self._weights_seen.setdefault(weight, weight)))
        return {name: weight for _, _, name, weight in sorted(found)}
