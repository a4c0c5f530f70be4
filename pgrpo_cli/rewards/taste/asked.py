"""Which differences between answers somebody has been asked about, so that the next pair asks for others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .bradley_terry import Floats
from .features import measured, readable_features

Pair = tuple[str, str]

_MOST = 3.0
"""Deviations of a feature by which two answers differ at most: a rare mark is not all that is asked about."""
_VARIANCE = 0.5
"""Of a weight before anything is asked."""
_INFORMATION = 0.25
"""What a pick says of the utility's difference: p (1 - p), at its greatest where both are equally likely."""


class Asked:
    """The pairs that were picked from, by the features of the taste reward.

    The most telling pair is the one whose outcome the earlier picks leave most open before anybody's taste is
    known: a sequential D-optimal design of the Bradley-Terry model. Features are in deviations of all answers
    that were looked at.
    """

    def __init__(self) -> None:
        self._features = readable_features()
        self._looked_at: dict[tuple[str, str], Floats] = {}
        self._pairs: list[tuple[Floats, Floats]] = []

    def most_telling(self, question: str, pairs: Sequence[Pair]) -> int:
        """Which of the pairs of answers to the question to show next."""
        candidates = [self._of(question, pair) for pair in pairs]
        deviation_F = np.std(list(self._looked_at.values()), axis=0)
        scale_F = np.where(deviation_F > 1e-9, deviation_F, np.inf)

        def difference(pair: tuple[Floats, Floats]) -> Floats:
            return np.clip((pair[0] - pair[1]) / scale_F, -_MOST, _MOST)

        precision_F_F = np.eye(len(scale_F)) / _VARIANCE
        for pair in self._pairs:
            precision_F_F += _INFORMATION * np.outer(difference(pair), difference(pair))
        variance_F_F = np.linalg.inv(precision_F_F)
        return int(np.argmax([difference(pair) @ variance_F_F @ difference(pair) for pair in candidates]))

    def add(self, question: str, pair: Pair) -> None:
        """A pair that was picked from."""
        self._pairs.append(self._of(question, pair))

    def take_back(self, back: int = 1) -> None:
        """Forget the last pair, or the one so many places from the end."""
        self._pairs.pop(-back)

    def _of(self, question: str, pair: Pair) -> tuple[Floats, Floats]:
        for text in pair:
            if (question, text) not in self._looked_at:
                self._looked_at[question, text] = measured(self._features, [(text, question)])[0]
        return self._looked_at[question, pair[0]], self._looked_at[question, pair[1]]
