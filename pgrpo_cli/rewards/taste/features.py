"""What of an answer a taste may go by: features that a person can read in it.

Counts enter as logarithms, so that the tenth exclamation mark says less than the second.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgrpo_cli.rewards.simple import flesch_kincaid_grade
from pgrpo_cli.rewards.styles import BULLET, CONTRACTION, EMPHATIC, FORMAL, QUESTION, SECOND_PERSON
from pgrpo_cli.rewards.text import distinct_hits, fold, lines, ramp, sentences, words

LONGEST = 20_000
"""Characters of an answer that are looked at."""
_LEAST_LETTERS = 4
"""Letters of a word of the question that counts when it is taken up; shorter ones mostly say little."""
_PICTURE = re.compile("[\u2600-\u27bf\U0001f300-\U0001faff]")
_GRADES = (-3.0, 20.0)


@dataclass(frozen=True)
class Answer:
    """An answer and the question that it answers."""

    text: str
    question: str

    @cached_property
    def words(self) -> list[str]:
        return words(self.text)

    @cached_property
    def sentences(self) -> list[str]:
        return sentences(self.text)


@dataclass(frozen=True)
class Feature:
    """One number of an answer. `more` and `less` say in words what somebody likes who likes much of it, or
    little.
    """

    name: str
    more: str
    less: str
    measure: Callable[[Answer], float]


def _share_of(pattern: re.Pattern[str], pieces: Sequence[str]) -> float:
    return sum(pattern.search(piece) is not None for piece in pieces) / len(pieces) if pieces else 0.0


def _capitals(answer: Answer) -> float:
    letters = [char for char in answer.text if char.isalpha()]
    share = sum(char.isupper() for char in letters) / len(letters) if letters else 0.0
    # Its root, as the first capitals count most.
    return math.sqrt(share)


def _grade(answer: Answer) -> float:
    grade = flesch_kincaid_grade(answer.text)
    return 0.0 if math.isnan(grade) else min(_GRADES[1], max(_GRADES[0], grade))


def _taken_up(answer: Answer) -> float:
    asked = {word for word in words(fold(answer.question)) if len(word) >= _LEAST_LETTERS}
    said = set(words(fold(answer.text)))
    return len(asked & said) / len(asked) if asked else 0.0


def _formality(answer: Answer) -> float:
    casual = len(CONTRACTION.findall(answer.text))
    return 0.6 * ramp(distinct_hits(FORMAL, answer.text), 0, 3) - 0.4 * ramp(casual, 0, 2)


@cache
def _vader() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


def _sentiment(answer: Answer) -> float:
    return float(_vader().polarity_scores(answer.text)["compound"])


_ALWAYS = (
    Feature("length", "longer answers", "shorter answers", lambda a: math.log1p(len(a.words))),
    Feature(
        "sentence_length",
        "longer sentences",
        "shorter sentences",
        lambda a: math.log1p(len(a.words) / max(1, len(a.sentences))),
    ),
    Feature("lists", "lists", "no lists", lambda a: _share_of(BULLET, lines(a.text))),
    Feature("questions", "questions", "no questions", lambda a: math.log1p(len(QUESTION.findall(a.text)))),
    Feature(
        "exclamations",
        "exclamation marks",
        "no exclamation marks",
        lambda a: math.log1p(a.text.count("!") + a.text.count("！")),
    ),
    Feature("capitals", "capitals", "few capitals", _capitals),
    Feature("formality", "formal words", "casual words", _formality),
    Feature("difficulty", "long words", "simple words", _grade),
    Feature(
        "enthusiasm",
        "enthusiastic words",
        "sober words",
        lambda a: math.log1p(distinct_hits(EMPHATIC, a.text)),
    ),
    Feature(
        "address",
        "being addressed",
        "not being addressed",
        lambda a: math.log1p(distinct_hits(SECOND_PERSON, a.text)),
    ),
    Feature("emoji", "emoji", "no emoji", lambda a: math.log1p(len(_PICTURE.findall(a.text)))),
    Feature("taken_up", "words of the question taken up", "other words than the question's", _taken_up),
)
_SENTIMENT = Feature("sentiment", "cheerful words", "grave words", _sentiment)


def readable_features() -> tuple[Feature, ...]:
    """All features; sentiment is one where vaderSentiment is installed."""
    return (*_ALWAYS, _SENTIMENT) if find_spec("vaderSentiment") else _ALWAYS


def measured(features: Sequence[Feature], answers: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
    """The features of each (answer, question), one row per answer."""
    found = [Answer(text[:LONGEST], question) for text, question in answers]
    rows = [[feature.measure(answer) for feature in features] for answer in found]
    return np.array(rows, dtype=np.float64).reshape(len(answers), len(features))
