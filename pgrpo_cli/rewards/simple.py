"""Rewards that look at one plain feature of the text: a pattern, a length, keywords."""

from __future__ import annotations

from collections.abc import Callable

from pgrpo_cli.errors import RewardError
from pgrpo_cli.recipe.messages import show
from pgrpo_cli.recipe.reward_text import KeywordReward, LengthReward, RegexReward
from pgrpo_cli.recipe.templates import Pattern, TemplateProblem

from .base import BuildContext, TextReward
from .text import distinct_hits, inside, sentences, term_patterns, words

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
    """1 inside [min, max], falling linearly to 0 at `slack` units outside of it."""
    count = LENGTH_UNITS[section.unit]

    def score(text: str) -> float:
        return inside(count(text), section.min, section.max, section.slack)

    return TextReward(score)


def build_keyword(section: KeywordReward, context: BuildContext) -> TextReward:
    """Share of the keywords that occur as whole words, in any case; with `need: any`, 1 for one of them."""
    patterns = term_patterns(keyword.replace("*", " ") for keyword in section.keywords)

    def score(text: str) -> float:
        found = distinct_hits(patterns, text)
        return float(found > 0) if section.need == "any" else found / len(patterns)

    return TextReward(score)
