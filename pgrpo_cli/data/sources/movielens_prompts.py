"""MovieLens prompts: the films that a user rated last, and the question which one comes next."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from pgrpo_cli.data.records import SourceRecord
from pgrpo_cli.recipe.interactions import MovielensSource
from pgrpo_cli.seeding import derive_seed

from .movielens_films import Films
from .movielens_ratings import Ratings
from .movielens_split import Pool, UserSplit, rows_before

# After so many draws for each candidate the films left are few, and all are gone through.
DRAWS = 50


class PromptWriter:
    """Writes the prompt of a target. Candidates are films that others have rated by then, as often as they
    have: neither their year nor their fame gives the target away.
    """

    def __init__(
        self, ratings: Ratings, films: Films, pool: Pool, section: MovielensSource, seed: int
    ) -> None:
        self._ratings = ratings
        self._films = films
        self._pool = pool
        self._pool_films = np.unique(pool.film_M).tolist()
        self._section = section
        self._seed = seed

    def __call__(self, split: UserSplit, row: int, part: str, preference_group: str) -> SourceRecord:
        """The record of the target at `row`; `part` is train or eval."""
        ratings, films = self._ratings, self._films
        user_id, target = int(ratings.user_ids_U[split.user]), int(ratings.film_N[row])
        time = int(ratings.time_N[row])
        before = rows_before(ratings, split.start, split.end, time)
        shown = slice(before - self._section.history, before)
        watched = ratings.film_N[shown].tolist()
        columns: dict[str, Any] = {
            "target": films.titles[target],
            "genres": list(films.genres[target]),
            "watched": [films.titles[film] for film in watched],
        }
        candidates = None
        if self._section.candidates is not None:
            candidates = self._candidates(split, target, time, user_id)
            columns["candidates"] = [films.titles[film] for film in candidates]
        text = self._text(watched, ratings.half_stars_N[shown].tolist(), candidates)
        return SourceRecord(
            f"{part}-user-{user_id}-film-{films.ids_F[target]}",
            ({"role": "user", "content": text},),
            preference_group,
            columns,
            str(user_id),
            float(time),
            ratings.name,
            int(ratings.line_N[row]),
        )

    def _candidates(self, split: UserSplit, target: int, time: int, user_id: int) -> list[int]:
        """The target and films that the user has not rated by then, in any order."""
        rng = random.Random(derive_seed(self._seed, "candidates", user_id, int(self._films.ids_F[target])))
        by_then = rows_before(self._ratings, split.start, split.end, time + 1)
        titles = self._films.titles
        # By title: a few films are listed twice, under two ids.
        known = {titles[film] for film in self._ratings.film_N[split.start : by_then].tolist()}
        known.add(titles[target])
        others: list[int] = []
        wanted = (self._section.candidates or 0) - 1
        for film in self._drawn(rng, time, wanted):
            if titles[film] not in known:
                known.add(titles[film])
                others.append(film)
            if len(others) == wanted:
                break
        others.append(target)
        rng.shuffle(others)
        return others

    def _drawn(self, rng: random.Random, time: int, wanted: int) -> Iterator[int]:
        # A number of another type would have all times converted first.
        by_then = int(np.searchsorted(self._pool.time_M, np.uint32(time)))
        for _ in range(DRAWS * wanted if by_then else 0):
            yield int(self._pool.film_M[rng.randrange(by_then)])
        # The first users of a collection, or a small one: any film serves.
        yield from rng.sample(self._pool_films, len(self._pool_films))

    def _text(self, watched: list[int], half_stars: list[int], candidates: list[int] | None) -> str:
        shown = self._films.shown
        parts = ["Films that I rated, the latest last:"]
        parts += [f"- {shown[film]}: {_stars(half)}" for film, half in zip(watched, half_stars, strict=True)]
        if candidates is None:
            parts.append("Which film will I watch next and like? Answer with its title only.")
        else:
            parts.append("Which of these films will I watch next and like?")
            parts += [f"- {shown[film]}" for film in candidates]
            parts.append("Answer with one of these titles only.")
        return "\n".join(parts)


def _stars(half_stars: int) -> str:
    return "1 star" if half_stars == 2 else f"{half_stars / 2:g} stars"
