"""Rewards that measure how an English text reads: its school grade and its sentiment."""

from __future__ import annotations

import math
import re

from pgrpo_cli.recipe.reward_text import ReadabilityReward, SentimentReward

from .base import BuildContext, TextReward
from .extras import import_extra
from .text import fold, inside, sentences, words

VOWELS = re.compile(r"[aeiouy]+")
SILENT_ENDING = re.compile(
    r"(?:(?<=[^aeiouy])(?<![^aeiouy]l)e"
    r"|(?<=[^aeiouysxzcg])(?<!ch)(?<!sh)(?<![^aeiouy]l)es"
    r"|(?<=[^aeiouytd])ed)$"
)
"""An ending that is written and not spoken: make, makes, jumped; but table, boxes, wanted."""


def build_readability(section: ReadabilityReward, context: BuildContext) -> TextReward:
    """1 inside [min, max] school grades, falling linearly to 0 at `slack` outside; 0 without a word."""

    def score(text: str) -> tuple[float, float]:
        grade = flesch_kincaid_grade(text)
        if math.isnan(grade):
            return 0.0, grade
        return inside(grade, section.min, section.max, section.slack), grade

    return TextReward(score, measure="grade")


def build_sentiment(section: SentimentReward, context: BuildContext) -> TextReward:
    """1 inside [min, max] of VADER's compound score, falling linearly to 0 at `slack` outside."""
    vader = import_extra("vaderSentiment.vaderSentiment", "text", section.label)
    polarity = vader.SentimentIntensityAnalyzer().polarity_scores

    def score(text: str) -> tuple[float, float]:
        compound = float(polarity(text)["compound"])
        return inside(compound, section.min, section.max, section.slack), compound

    return TextReward(score, measure="compound")


def flesch_kincaid_grade(text: str) -> float:
    """The Flesch-Kincaid grade (Kincaid et al. 1975), in US school years; NaN for a text without a word."""
    found = words(text)
    if not found:
        return math.nan
    syllables_per_word = sum(map(syllables, found)) / len(found)
    return 0.39 * len(found) / len(sentences(text)) + 11.8 * syllables_per_word - 15.59


def syllables(word: str) -> int:
    """Syllables of an English word, estimated: runs of vowels but for a silent ending, at least one."""
    # Accents go last: an accented ending is spoken.
    return max(1, len(VOWELS.findall(fold(SILENT_ENDING.sub("", word.casefold())))))
