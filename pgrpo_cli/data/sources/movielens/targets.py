"""Which ratings are targets, which of them are held out, and what training may see of a user.

Films of the same second are one moment: none of them is earlier than another, and only one is a target.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pgrpo_cli.data.records import RejectedRow
from pgrpo_cli.data.sources.rejections import Rejections
from pgrpo_cli.recipe.public_sets import MovielensSource
from pgrpo_cli.seeding import derive_seed

from .ratings import Ratings


@dataclass(frozen=True)
class UserSplit:
    """One user's rows of `Ratings`.

    `train` and `held_out` are targets, in the order of time. Rows before `seen` are what precedes everything
    held out; rows before `profile` make the profile, which are the same unless the user is new after a cut.
    """

    user: int
    start: int
    end: int
    seen: int
    profile: int
    train: tuple[int, ...]
    held_out: tuple[int, ...]


@dataclass(frozen=True)
class Pool:
    """M ratings by anyone, in the order of time: where candidates are drawn from."""

    film_M: NDArray[np.int32]
    time_M: NDArray[np.uint32]


def cut_time(ratings: Ratings, section: MovielensSource) -> int | None:
    """The moment that `section.cut` of all ratings precede; None where the hold-out is by user."""
    if section.holdout != "cut":
        return None
    index = min(int(section.cut * len(ratings.time_N)), len(ratings.time_N) - 1)
    return int(np.partition(ratings.time_N, index)[index])


def split_users(
    ratings: Ratings, section: MovielensSource, cut: int | None, seed: int, rejections: Rejections
) -> list[UserSplit]:
    """The users who have targets, at most `section.max_users`, in the order of their ids."""
    counts = np.diff(ratings.starts_U1)
    for user in np.flatnonzero(counts < section.min_ratings).tolist():
        detail = f"user {ratings.user_ids_U[user]} has {counts[user]}, min_ratings is {section.min_ratings}"
        rejections.add(RejectedRow("user with too few ratings", detail, ratings.name, left_out=True))
    users: Iterable[int] = np.flatnonzero(counts >= section.min_ratings).tolist()
    if section.max_users is not None:
        users = sorted(users, key=lambda user: derive_seed(seed, "user", int(ratings.user_ids_U[user])))
    splits: list[UserSplit] = []
    for user in users:
        split = _split_user(ratings, user, section, cut, seed)
        if split is None:
            detail = (
                f"user {ratings.user_ids_U[user]} has no film of {section.min_rating:g} stars or more "
                f"with {section.history} before it"
            )
            rejections.add(RejectedRow("user without a target", detail, ratings.name, left_out=True))
            continue
        splits.append(split)
        if len(splits) == section.max_users:
            break
    return sorted(splits, key=lambda split: split.user)


def training_pool(ratings: Ratings, splits: list[UserSplit], cut: int | None) -> Pool:
    """All ratings but those that are held out or come after something held out."""
    if cut is not None:
        kept = ratings.time_N < cut
    else:
        kept = np.ones(len(ratings.time_N), dtype=bool)
        for split in splits:
            kept[split.seen : split.end] = False
    time = ratings.time_N[kept]
    order = np.argsort(time, kind="stable")
    return Pool(ratings.film_N[kept][order], time[order])


def rows_before(ratings: Ratings, start: int, end: int, time: int) -> int:
    """The first of a user's rows start to end that is not before `time`."""
    return start + int(np.searchsorted(ratings.time_N[start:end], np.uint32(time)))


def _split_user(
    ratings: Ratings, user: int, section: MovielensSource, cut: int | None, seed: int
) -> UserSplit | None:
    start, end = (int(row) for row in ratings.starts_U1[user : user + 2])
    moments = _moments(ratings, start, end, section)
    if not moments:
        return None
    user_id = int(ratings.user_ids_U[user])
    rng = random.Random(derive_seed(seed, "held out", user_id))
    if cut is None:
        held_out = tuple(rng.choice(rows) for rows in moments[-section.eval_prompts_per_user :])
        seen = rows_before(ratings, start, end, int(ratings.time_N[held_out[0]]))
    else:
        seen = rows_before(ratings, start, end, cut)
        after = [rows for rows in moments if rows[0] >= seen]
        held_out = tuple(rng.choice(rows) for rows in after[: section.eval_prompts_per_user])
    profile = seen
    if profile == start:
        profile = rows_before(ratings, start, end, int(ratings.time_N[held_out[0]]))
    # A generator of its own: what is held out has no influence on what is drawn here.
    rng = random.Random(derive_seed(seed, "train", user_id))
    earlier = [rows for rows in moments if rows[0] < seen]
    drawn = sorted(rng.sample(range(len(earlier)), min(section.prompts_per_user, len(earlier))))
    train = tuple(rng.choice(earlier[index]) for index in drawn)
    return UserSplit(user, start, end, seen, profile, train, held_out)


def _moments(ratings: Ratings, start: int, end: int, section: MovielensSource) -> list[list[int]]:
    """The rows that can be targets, those of one moment together, in the order of time."""
    times = ratings.time_N[start:end]
    before = np.searchsorted(times, times)
    liked = ratings.half_stars_N[start:end] >= 2 * section.min_rating
    rows = np.flatnonzero(liked & (before >= section.history))
    moments: dict[int, list[int]] = {}
    for row, earlier in zip((rows + start).tolist(), before[rows].tolist(), strict=True):
        moments.setdefault(earlier, []).append(row)
    return list(moments.values())
