"""A taste as it is learnt from picks: how predictable users are, what they like, what answers are worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pgrpo_cli.feedback.records import Message, Pick

from .bradley_terry import (
    LEAST_PICKS,
    LUCK,
    MOST_JUDGED,
    Comparisons,
    Floats,
    Model,
    Predictability,
    fit,
    predictability,
)
from .features import Feature, measured, readable_features

Embed = Callable[[Sequence[str]], Sequence[Floats]]
"""From texts to a vector for each."""
_LEAST_SHARE = 0.3
"""Weight of a feature that is named, as a share of the greatest one."""
_MOST_NAMED = 4


@dataclass(frozen=True)
class Components:
    """Principal components of the embeddings of the answers that were picked from."""

    embed: Embed
    mean_E: Floats
    axes_C_E: Floats

    def __call__(self, texts: Sequence[str]) -> Floats:
        return (
            np.stack([np.asarray(vector, dtype=np.float64) for vector in self.embed(texts)]) - self.mean_E
        ) @ (self.axes_C_E.T)

    @classmethod
    def of(cls, embed: Embed, texts: Sequence[str], count: int) -> Components:
        """Of the distinct texts; fewer where there are fewer texts."""
        from sklearn.decomposition import PCA

        distinct = list(dict.fromkeys(texts))
        vectors = np.stack([np.asarray(vector, dtype=np.float64) for vector in embed(distinct)])
        pca = PCA(n_components=min(count, *vectors.shape), svd_solver="full").fit(vectors)
        return cls(embed, pca.mean_, pca.components_)


@dataclass(frozen=True)
class Taste:
    """What picks say of their users. `predictable` holds a user's accuracy, `model` their weights."""

    features: tuple[Feature, ...]
    components: Components | None
    model: Model
    predictable: Mapping[str, Predictability]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the features, and after them of the components."""
        extra = 0 if self.components is None else len(self.components.axes_C_E)
        return (*(f.name for f in self.features), *(f"component_{n}" for n in range(1, extra + 1)))

    def contributions(self, user: str, answers: Sequence[tuple[str, str]]) -> Floats:
        """What each feature adds to the utility of each (answer, question), in deviations of the utility."""
        return self.model.contributions(user, _measured(self.features, self.components, answers))

    def likes(self, user: str) -> list[str]:
        """What the user likes, in words, the strongest first."""
        weights_F = self.model.weights[user]
        named = sorted(range(len(self.features)), key=lambda place: -abs(weights_F[place]))[:_MOST_NAMED]
        least = max(_LEAST_SHARE * float(np.abs(weights_F).max()), 1e-9)
        return [
            self.features[place].more if weights_F[place] > 0 else self.features[place].less
            for place in named
            if abs(weights_F[place]) >= least
        ]

    def sentence(self, user: str) -> str:
        """How predictable the user is, and what they like."""
        found = self.predictable[user]
        count = found.picks - found.judged
        ties = f" and {count} {'tie' if count == 1 else 'ties'}" if count else ""
        latest = "the latest " if found.picks == MOST_JUDGED else ""
        if found.judged < LEAST_PICKS:
            return f"{user}: {found.judged or 'no'} picks{ties}: {LEAST_PICKS} are the least that can tell"
        about = (
            f"{user}: {latest}{found.judged} picks{ties}; {found.accuracy:.0%} are predicted by the others, "
            f"of picks by a coin {found.by_luck / found.judged:.0%} once in {LUCK} times"
        )
        if not found.better_than_chance:
            return f"{about}: no better than chance"
        return f"{about}: likes {', '.join(self.likes(user)) or 'what no single feature shows'}"


def learn_taste(
    picks: Sequence[Pick],
    user_of: Callable[[Pick], str],
    embed: Embed | None = None,
    components: int = 0,
) -> Taste:
    """The taste of every user of at least one pick, except OTHERS.

    `embed` and `components`: further features, if any.
    """
    features = readable_features()
    firsts = [(pick.answers[0], question_of(pick.messages)) for pick in picks]
    seconds = [(pick.answers[1], question_of(pick.messages)) for pick in picks]
    found = None
    if embed is not None:
        found = Components.of(embed, [text for text, _ in (*firsts, *seconds)], components)
    comparisons = Comparisons(
        tuple(map(user_of, picks)),
        _measured(features, found, firsts),
        _measured(features, found, seconds),
        np.array([pick.first_share for pick in picks]),
        _pairs_of(firsts, seconds),
    )
    return Taste(features, found, fit(comparisons), predictability(comparisons))


def question_of(messages: Sequence[Message] | Sequence[Mapping[str, str]]) -> str:
    """The last message of the user."""
    asked = [message["content"] for message in messages if message["role"] == "user"]
    return asked[-1] if asked else ""


def _pairs_of(firsts: Sequence[tuple[str, str]], seconds: Sequence[tuple[str, str]]) -> tuple[int, ...]:
    """A number for each pick: the same one where the same two answers were shown, in either order."""
    numbers: dict[tuple[tuple[str, str], ...], int] = {}
    both = (tuple(sorted(pair)) for pair in zip(firsts, seconds, strict=True))
    return tuple(numbers.setdefault(pair, len(numbers)) for pair in both)


def _measured(
    features: Sequence[Feature], components: Components | None, answers: Sequence[tuple[str, str]]
) -> Floats:
    readable_N_F = measured(features, answers)
    if components is None:
        return readable_N_F
    return np.concatenate([readable_N_F, components([text for text, _ in answers])], axis=1)
