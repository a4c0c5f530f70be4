"""`type: taste`: the reward that is learnt from picks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pgrpo_cli.errors import DataError, RewardError
from pgrpo_cli.feedback.file import read_feedback
from pgrpo_cli.feedback.records import Pick
from pgrpo_cli.names import nearest
from pgrpo_cli.paths import path_of
from pgrpo_cli.recipe.rewards import TasteReward
from pgrpo_cli.rewards.base import BuildContext, Completion, Score, shown, where
from pgrpo_cli.rewards.text import is_blank

from .bradley_terry import OTHERS
from .learnt import Embed, Taste, learn_taste, question_of

MOST_USERS = 20
MOST_PICKS = 5_000
"""Of a file, the latest of each user: learning from so many takes a minute at most."""
_SHOWN = 20


@dataclass(frozen=True)
class TasteFunction:
    """The reward of a `TasteReward` section. `users`: those for whom it gives rewards."""

    label: str
    path: Path
    taste: Taste
    users: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        return TasteReward.parts

    @property
    def part_weights(self) -> dict[str, float]:
        return {"value": 1.0}

    @property
    def value_range(self) -> tuple[float, float]:
        return (0.0, 1.0)

    def __call__(self, completions: Sequence[Completion]) -> list[Score]:
        scores: list[Score | None] = [None] * len(completions)
        by_user: dict[str, list[int]] = {}
        for place, completion in enumerate(completions):
            by_user.setdefault(self._user(completion), []).append(place)
        for user, places in by_user.items():
            utilities = self._contributions(user, [completions[place] for place in places]).sum(axis=1)
            for place, utility in zip(places, utilities.tolist(), strict=True):
                # Who likes it short still wants an answer.
                blank = is_blank(completions[place].text)
                value = 0.0 if blank else 1 / (1 + math.exp(-max(utility, -50.0)))
                scores[place] = Score(value, {"value": value})
        return [score for score in scores if score is not None]

    def details(self, completion: Completion) -> Mapping[str, float]:
        """What each feature adds to the utility; 0 is the mean of the answers that were picked from."""
        (row,) = self._contributions(self._user(completion), [completion])
        return dict(zip(self.taste.names, row.tolist(), strict=True))

    def description(self) -> Sequence[str]:
        """What was learnt of each user, and what of the file was not read."""
        return [*self.notes, *(f"{self.label}: {self.taste.sentence(user)}" for user in self.users)]

    def _contributions(self, user: str, completions: Sequence[Completion]) -> np.ndarray:
        answers = [(c.text, question_of(c.messages) or c.prompt) for c in completions]
        return self.taste.contributions(user, answers)

    def _user(self, completion: Completion) -> str:
        # First the preference group: the matrix of an evaluation asks what others would give to an answer.
        for name in (completion.preference_group, completion.user_id):
            if name in self.users:
                return str(name)
        asked = completion.user_id or completion.preference_group
        near = nearest(asked, self.users)
        raise RewardError(
            f"reward {self.label!r}: {self.path} has no taste of {shown(asked)}"
            + (f"; did you mean {near!r}?" if near else f"; it has: {_listed(self.users)}")
            + f"; {where(completion)}",
            remedy="Let them pick (`pgrpo taste`), or limit the reward with `preference_groups`.",
        )


def build_taste(section: TasteReward, context: BuildContext) -> TasteFunction:
    """Learn from the picks of the file.

    Raises DataError where it has none, or a user's are predicted no better than chance.
    """
    path = path_of(section.path, f"reward {section.label!r}: path", context.recipe_dir)
    feedback = read_feedback(path)
    notes = list(feedback.notes)
    # Between something and nothing there is no taste: nothing is worth nothing anyway.
    spoken = [pick for pick in feedback.picks if not any(map(is_blank, pick.answers))]
    if blank := len(feedback.picks) - len(spoken):
        notes.append(f"{path}: {blank:,} picks with a blank answer are not learnt from.")
    if not spoken:
        raise DataError(
            f"reward {section.label!r}: {path} has no picks between two answers",
            remedy="`pgrpo taste` asks for them: two dozen do.",
        )
    user_of = _user_of(section)
    picks = _latest(spoken, user_of, section.users)
    if len(picks) < len(spoken):
        notes.append(
            f"{path}: {MOST_PICKS:,} of {len(spoken):,} picks are learnt from: the latest of each user."
        )
    counts = Counter(map(user_of, picks))
    users = tuple(sorted(counts)) if section.users is None else section.users
    _require_known(users, counts, section, path)
    embed, components = _embedding(section, context)
    taste = learn_taste(
        picks, lambda pick: user if (user := user_of(pick)) in users else OTHERS, embed, components
    )
    refused = [user for user in users if not taste.predictable[user].better_than_chance]
    if refused:
        sentences = "".join(f"\n  {taste.sentence(user)}" for user in refused[:_SHOWN])
        raise DataError(
            f"reward {section.label!r}: {path}: the picks of {_listed(refused)} are predicted no "
            f"better than by chance, so their taste would train towards nothing{sentences}",
            remedy="More picks help (`pgrpo taste`), of answers that differ; or name in `users` those who "
            "shall have this reward.",
        )
    return TasteFunction(section.label, path, taste, users, tuple(notes))


def _user_of(section: TasteReward) -> Callable[[Pick], str]:
    def user_of(pick: Pick) -> str:
        names = (pick.user, pick.preference_group)
        first, second = names if section.picks_by == "user" else names[::-1]
        # A pick has at least one of them.
        return first or second or ""

    return user_of


def _latest(picks: Sequence[Pick], user_of: Callable[[Pick], str], named: Sequence[str] | None) -> list[Pick]:
    """At most `MOST_PICKS` in their order: those of named users first, and of each user the latest."""
    later: Counter[str] = Counter()
    ranked = []
    for place in reversed(range(len(picks))):
        user = user_of(picks[place])
        ranked.append((named is not None and user not in named, later[user], place))
        later[user] += 1
    return [picks[place] for place in sorted(place for *_, place in sorted(ranked)[:MOST_PICKS])]


def _require_known(users: Sequence[str], counts: Counter[str], section: TasteReward, path: Path) -> None:
    if len(users) > MOST_USERS:
        raise DataError(
            f"reward {section.label!r}: {path} has picks of {len(users):,} users; of {MOST_USERS} at most a "
            "taste is learnt",
            remedy="Name in `users` those who shall have this reward; the others' picks still tell what is "
            "shared.",
        )
    if unknown := next((user for user in users if user not in counts), None):
        near = nearest(unknown, counts)
        raise DataError(
            f"reward {section.label!r}: {path} has no picks of {shown(unknown)}"
            + (f"; did you mean {near!r}?" if near else f"; it has picks of: {_listed(sorted(counts))}"),
            remedy="Correct `users`, or let them pick (`pgrpo taste`).",
        )


def _embedding(section: TasteReward, context: BuildContext) -> tuple[Embed | None, int]:
    if section.embedding is None:
        return None, 0
    from pgrpo_cli.rewards.pretrained import location_of
    from pgrpo_cli.rewards.similarity import load_embedder

    at = location_of(section.embedding, context.recipe_dir, section.label)
    return load_embedder(section.embedding, at, device=context.device), section.embedding.components


def _listed(users: Sequence[str]) -> str:
    more = len(users) - _SHOWN
    return ", ".join(users[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
