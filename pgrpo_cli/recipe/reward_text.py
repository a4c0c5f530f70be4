"""`rewards` that look at the completion's text alone."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from .messages import KeyPath
from .reward_base import RewardBase, interval
from .templates import Pattern, TemplateProblem
from .violation import Violation


class RegexReward(RewardBase):
    """1 where the pattern is found in the completion; with `count`, the share of `limit` matches found."""

    cheap: ClassVar[bool] = True
    value_range: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    type: Literal["regex"] = "regex"
    pattern: str = Field(
        description="Python regular expression, searched anywhere in the completion, for 3 seconds of "
        "processor time at most."
    )
    ignore_case: bool = Field(False, description="Match without regard to case.")
    count: bool = Field(False, description="Reward matches / limit instead of 0 or 1.")
    limit: int = Field(1, ge=1, description="Matches worth the full reward when `count` is true.")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            Pattern(value)
        except TemplateProblem as problem:
            raise ValueError(str(problem)) from problem
        return value

    def violations(self, path: KeyPath) -> Iterator[Violation]:
        """A limit is one of counting."""
        if self.limit > 1 and not self.count:
            rule = "limits the matches that `count: true` counts; set count to true, or remove limit"
            yield Violation((*path, "limit"), self.limit, rule)


class LengthReward(RewardBase):
    """1 inside [min, max], falling linearly to 0 at `slack` outside of it."""

    cheap: ClassVar[bool] = True
    value_range: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    type: Literal["length"] = "length"
    unit: Literal["characters", "words", "sentences"] = Field("words", description="What is counted.")
    min: int = Field(0, ge=0, description="Least length worth the full reward.")
    max: int = Field(ge=0, description="Greatest length worth the full reward.")
    slack: int = Field(10, ge=1, description="Distance outside the interval at which the reward reaches 0.")

    def violations(self, path: KeyPath) -> Iterator[Violation]:
        """`min` and `max` enclose something."""
        yield from interval(path, self.min, self.max)


class KeywordReward(RewardBase):
    """Share of the keywords that occur in the completion, as whole words, without regard to case."""

    cheap: ClassVar[bool] = True
    value_range: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    type: Literal["keyword"] = "keyword"
    keywords: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        min_length=1, description="Words or phrases."
    )
    need: Literal["any", "share"] = Field("any", description="`any`: 1 if one occurs. `share`: found / all.")

    @field_validator("keywords")
    @classmethod
    def _words_are_apart(cls, keywords: tuple[str, ...]) -> tuple[str, ...]:
        # A hyphen could count as the word's or as the blank's: too many ways to look for it.
        for keyword in keywords:
            words = unicodedata.normalize("NFKD", keyword).split()
            if len(words) > 1 and any(word != word.strip("-") for word in words):
                raise ValueError(f"{keyword!r} has a hyphen beside a blank, which matches hyphens already")
        return keywords


class ReadabilityReward(RewardBase):
    """1 where the text's Flesch-Kincaid grade lies in [min, max], falling linearly to 0 at `slack` outside.

    The grade is the US school year for which an English text is fit: 0.39 · words / sentence + 11.8 ·
    syllables / word - 15.59. Syllables are estimated from the spelling. A completion without a word gets 0.
    The part `grade` records the grade itself. Text for children: `{type: readability, max: 5}`; for
    specialists: `{type: readability, min: 12}`.
    """

    parts: ClassVar[tuple[str, ...]] = ("value", "grade")
    cheap: ClassVar[bool] = True
    value_range: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    type: Literal["readability"] = "readability"
    min: float | None = Field(None, description="Least grade worth the full reward. Null: no bound.")
    max: float | None = Field(None, description="Greatest grade worth the full reward. Null: no bound.")
    slack: float = Field(5.0, gt=0, description="Grades outside the interval at which the reward reaches 0.")

    def violations(self, path: KeyPath) -> Iterator[Violation]:
        """`min` and `max` enclose something."""
        yield from interval(path, self.min, self.max)


class SentimentReward(RewardBase):
    """1 where the text's sentiment lies in [min, max], falling linearly to 0 at `slack` outside of it.

    The sentiment is VADER's compound score, from -1 to 1: a lexicon of English words and emoji with rules
    for negation and emphasis. Long texts drift towards -1 or 1; a text without any word that it knows is 0.
    The part `compound` records it. Cheerful: `{type: sentiment, min: 0.6}`; level-headed:
    `{type: sentiment, min: -0.2, max: 0.2}`. Needs `pip install 'pgrpo-cli[text]'`.
    """

    parts: ClassVar[tuple[str, ...]] = ("value", "compound")
    value_range: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    type: Literal["sentiment"] = "sentiment"
    min: float | None = Field(
        None, ge=-1, le=1, description="Least sentiment worth the full reward. Null: no bound."
    )
    max: float | None = Field(
        None, ge=-1, le=1, description="Greatest sentiment worth the full reward. Null: no bound."
    )
    slack: float = Field(
        1.0, gt=0, description="Sentiment outside the interval at which the reward reaches 0."
    )

    def violations(self, path: KeyPath) -> Iterator[Violation]:
        """`min` and `max` enclose something."""
        yield from interval(path, self.min, self.max)


class PersonasReward(RewardBase):
    """Style and genre of the seven synthetic personas, with each one's own scale, offset and difficulty."""

    parts: ClassVar[tuple[str, ...]] = ("style", "genre")
    cheap: ClassVar[bool] = True
    by_preference_group: ClassVar[bool | None] = True

    type: Literal["personas"] = "personas"
    style_weight: float = Field(0.6, ge=0, description="Share of the style part.")
    genre_weight: float = Field(0.4, ge=0, description="Share of the genre part.")

    def violations(self, path: KeyPath) -> Iterator[Violation]:
        """One of the parts counts."""
        if self.style_weight == self.genre_weight == 0:
            rule = "style_weight and genre_weight are both 0, so that every reward is 0; raise one of them"
            yield Violation((*path, "style_weight"), self.style_weight, rule)


TextSection = (
    PersonasReward | RegexReward | LengthReward | KeywordReward | ReadabilityReward | SentimentReward
)
