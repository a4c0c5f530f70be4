"""Rewards that look at the text alone: a pattern, a length, keywords, its school grade, its sentiment."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from pgrpo_cli.errors import RewardError
from pgrpo_cli.recipe.messages import show
from pgrpo_cli.recipe.reward_base import RewardBase
from pgrpo_cli.recipe.reward_text import (
    KeywordReward,
    LengthReward,
    ReadabilityReward,
    RegexReward,
    SentimentReward,
)
from pgrpo_cli.recipe.templates import Pattern, TemplateProblem

from .base import BuildContext, Builder, TextReward, import_extra
from .text import distinct_hits, fold, inside, is_blank, sentences, whole_term, words

VOWELS = re.compile(r"[aeiouy]+")
SILENT_ENDING = re.compile(
    r"(?:(?<=[^aeiouy])(?<![^aeiouy]l)e"
    r"|(?<=[^aeiouysxzcg])(?<!ch)(?<!sh)(?<![^aeiouy]l)es"
    r"|(?<=[^aeiouytd])ed)$"
)
"""An ending that is written and not spoken: make, makes, jumped; but table, boxes, wanted."""

LENGTH_UNITS: dict[str, Callable[[str], int]] = {
    "characters": len,
    "words": lambda text: len(words(text)),
    "sentences": lambda text: len(sentences(text)),
}


def build_regex(section: RegexReward, context: BuildContext) -> TextReward:
    """1 where the pattern is found; with `count`, matches / limit, at most 1."""
    pattern = Pattern(section.pattern, ignore_case=section.ignore_case)
    most = section.limit if section.count else 1

    def score(text: str) -> float:
        try:
            return pattern.count(text, most) / most
        except TemplateProblem as problem:
            raise RewardError(
                f"reward {section.label!r}: the pattern {show(section.pattern)} on a completion of "
                f"{len(text):,} characters: {problem}",
                remedy="Write it so that a text can match in one way only: `(a+)+b` splits aaaa in many "
                "ways, `a+b` in one.",
            ) from problem

    return TextReward(score)


def build_length(section: LengthReward, context: BuildContext) -> TextReward:
    """1 inside [min, max], falling linearly to 0 at `slack` units outside of it; 0 for a blank text."""
    count = LENGTH_UNITS[section.unit]

    def score(text: str) -> float:
        return 0.0 if is_blank(text) else inside(count(text), section.min, section.max, section.slack)

    return TextReward(score)


def build_keyword(section: KeywordReward, context: BuildContext) -> TextReward:
    """Share of the keywords that occur as whole words, in any case; with `need: any`, 1 for one of them."""
    patterns = tuple(map(whole_term, section.keywords))

    def score(text: str) -> float:
        found = distinct_hits(patterns, text)
        return float(found > 0) if section.need == "any" else found / len(patterns)

    return TextReward(score)


def build_readability(section: ReadabilityReward, context: BuildContext) -> TextReward:
    """1 inside [min, max] school grades, falling linearly to 0 at `slack` outside; 0 without a word."""

    def score(text: str) -> tuple[float, float]:
        grade = flesch_kincaid_grade(text)
        if math.isnan(grade):
            return 0.0, grade
        return inside(grade, section.min, section.max, section.slack), grade

    return TextReward(score, measure="grade")


def build_sentiment(section: SentimentReward, context: BuildContext) -> TextReward:
    """1 inside [min, max] of VADER's compound score, falling linearly to 0 at `slack` outside.

    A blank text is not level-headed: it gets 0, unless VADER finds emoji in it.
    """
    vader = import_extra("vaderSentiment.vaderSentiment", "text", section.label)
    polarity = vader.SentimentIntensityAnalyzer().polarity_scores

    def score(text: str) -> tuple[float, float]:
        compound = float(polarity(text)["compound"])
        if compound == 0 and is_blank(text):
            return 0.0, compound
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
    """Syllables of an English word, estimated: runs of vowels without a silent ending, at least one."""
    # Accents go last: an accented ending is spoken.
    return max(1, len(VOWELS.findall(fold(SILENT_ENDING.sub("", word.casefold())))))


BUILDERS: dict[type[RewardBase], Builder] = {
    RegexReward: build_regex,
    LengthReward: build_length,
    KeywordReward: build_keyword,
    ReadabilityReward: build_readability,
    SentimentReward: build_sentiment,
}
