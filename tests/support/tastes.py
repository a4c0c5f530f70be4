"""A source of users with two tastes, for tests of what goes by users: profiles, times and prompts of each."""

from __future__ import annotations

from typing import Any

import numpy as np

from pgrpo_cli.data.records import PromptRecord, SourceData, UserProfile
from pgrpo_cli.data.sources import SOURCES

LIKED = {"horror": ("Horror", "Thriller"), "romance": ("Romance", "Drama")}
GENRES = ("Horror", "Thriller", "Romance", "Drama", "War")
USERS = {"horror": 18, "romance": 12}
PROMPTS = 5
"""Of each user, one a unit of time."""


def tastes(*, held_out: tuple[str, ...] = (), profiles: bool = True) -> SourceData:
    """Prompts of users `horror-0`, ...; those of users in `held_out` are the source's own held-out half."""
    records = {
        f"{taste}-{number}": [_record(taste, number, time) for time in range(PROMPTS)]
        for taste, count in USERS.items()
        for number in range(count)
    }
    train = [record for user, own in records.items() if user not in held_out for record in own]
    evaluation = [record for user in held_out for record in records[user]]
    known = {user: _profile(user) for user in records} if profiles else {}
    return SourceData(tuple(train), tuple(evaluation) if held_out else None, profiles=known)


def give(monkeypatch: Any, data: SourceData) -> None:
    """Let the source `jsonl` give `data`, whatever its file."""
    monkeypatch.setitem(SOURCES, "jsonl", lambda section, context: data)


def _record(taste: str, number: int, time: int) -> PromptRecord:
    messages = ({"role": "user", "content": f"{taste} fan {number} asks question {time}"},)
    user = f"{taste}-{number}"
    columns = {"age": 10 + number, "taste": taste}
    return PromptRecord(f"{user}/{time}", messages, None, columns, user, float(time))


def _profile(user: str) -> UserProfile:
    taste, _, number = user.partition("-")
    noise = np.random.default_rng([int(number), len(taste)]).normal(size=len(GENRES))
    return UserProfile(
        {g: (4.0 if g in LIKED[taste] else 2.0) + 0.2 * float(n) for g, n in zip(GENRES, noise, strict=True)}
    )
