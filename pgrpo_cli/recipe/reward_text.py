"""`rewards` that are computed from texts: the completion's own, and those of its row."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from .base import Violation
from .reward_base import ReferenceReward, RewardBase, interval
from .templates import Pattern, TemplateProblem


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

    def violations(self) -> Iterator[Violation]:
        """A limit is one of counting."""
        if self.limit > 1 and not self.count:
            rule = "limits the matches that `count: true` counts; set count to true, or remove limit"
            yield Violation(("limit",), self.limit, rule)


class LengthReward(RewardBase):
    """1 inside [min, max], falling linearly to 0 at `slack` outside of it.

    A completion without a letter or digit gets 0, even if `min` is 0.
    """

    cheap: ClassVar[bool] = True
    value_range: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    type: Literal["length"] = "length"
    unit: Literal["characters", "words", "sentences"] = Field(
        "words",
        description="What is counted. A Chinese, Japanese, Thai, Lao, Burmese or Khmer character is a word "
        "of its own; 。！？ and the full stops of Hindi, Urdu and others end a sentence, as .!? do before a "
        "blank.",
    )
    min: int = Field(0, ge=0, description="Least length worth the full reward.")
    max: int = Field(ge=0, description="Greatest length worth the full reward.")
    slack: int = Field(10, ge=1, description="Distance outside the interval at which the reward reaches 0.")

    def violations(self) -> Iterator[Violation]:
        """`min` and `max` enclose something."""
        yield from interval(self.min, self.max)


class KeywordReward(RewardBase):
    """Share of the keywords that occur in the completion, as whole words. Case and accents do not count."""

    cheap: ClassVar[bool] = True
    value_range: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    type: Literal["keyword"] = "keyword"
    keywords: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        min_length=1,
        description="Words or phrases. In and beside Chinese, Japanese, Thai, Lao, Burmese and Khmer text, "
        "where nothing parts words, they are found anywhere.",
    )
    need: Literal["any", "share"] = Field("any", description="`any`: 1 if one occurs. `share`: found / all.")

    @field_validator("keywords")
    @classmethod
    def _words_are_apart(cls, keywords: tuple[str, ...]) -> tuple[str, ...]:
        for keyword in keywords:
            if not keyword.strip():
                raise ValueError(f"{keyword!r} is blank")
            # A hyphen could count as the word's or as the blank's: too many ways to look for it.
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

    def violations(self) -> Iterator[Violation]:
        """`min` and `max` enclose something."""
        yield from interval(self.min, self.max)


class SentimentReward(RewardBase):
    """1 where the text's sentiment lies in [min, max], falling linearly to 0 at `slack` outside of it.

    The sentiment is VADER's compound score, from -1 to 1: a lexicon of English words and emoji with rules
    for negation and emphasis. Long texts drift towards -1 or 1; a text without any word that it knows is 0.
    The part `compound` records it. A completion without a letter, digit or emoji gets 0. Cheerful: `{type:
    sentiment, min: 0.6}`; level-headed: `{type: sentiment, min: -0.2, max: 0.2}`. Needs `pip install
    'pgrpo-cli[text]'`.
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

    def violations(self) -> Iterator[Violation]:
        """`min` and `max` enclose something."""
        yield from interval(self.min, self.max)


class PersonasReward(RewardBase):
    """Style and genre of the seven synthetic personas, with each one's own scale, offset and difficulty."""

    parts: ClassVar[tuple[str, ...]] = ("style", "genre")
    cheap: ClassVar[bool] = True
    by_preference_group: ClassVar[bool | None] = True

    type: Literal["personas"] = "personas"
    style_weight: float = Field(0.6, ge=0, description="Share of the style part.")
    genre_weight: float = Field(0.4, ge=0, description="Share of the genre part.")

    def violations(self) -> Iterator[Violation]:
        """One of the parts counts."""
        if self.style_weight == self.genre_weight == 0:
            rule = "style_weight and genre_weight are both 0, so that every reward is 0; raise one of them"
            yield Violation(("style_weight",), self.style_weight, rule)


class RecommendationReward(RewardBase):
    """Whether the completion names a target title, how early, and whether it keeps to the candidates.

    The value is hit_weight · `hit` + rank_weight · `rank` + candidate_weight · `candidate`. `hit` is 1 where
    a target is among the first `k` titles named, `rank` is 1 / its place among them, `candidate` is 1 where
    any title of the candidates and targets is named: a first step for a model that names none yet.

    Titles are compared without case, accents, punctuation and article: `Matrix, The (1999)` is `the matrix`.
    A year beside a title must be the right one. Where titles overlap, the longest of the candidates and
    targets counts. A title of one word counts in running text only where it is capitalised; one that is a
    number or a word such as It or Her only where it is set apart, by quotes, emphasis, a year in brackets or
    a line of its own, or (the word) capitalised inside a sentence. Without candidates, what is quoted counts
    as a whole, and a target's place is that of its list item, else of its quotation, else of its piece
    between commas, semicolons, lines, `and` and `or`.

    For rows with a column `target` and a list `candidates`:
    `{type: recommendation, candidates_column: candidates, candidate_weight: 0.1}`.
    """

    parts: ClassVar[tuple[str, ...]] = ("hit", "rank", "candidate")
    cheap: ClassVar[bool] = True

    type: Literal["recommendation"] = "recommendation"
    target_column: str = Field(
        "target",
        description="Column with the title to name, or with a list of titles, any of which is accepted.",
    )
    candidates_column: str | None = Field(
        None, description="Column with the list of titles to choose from. Null: the data have none."
    )
    k: int = Field(5, ge=1, description="How many titles of a completion count, starting with the first.")
    ignore_year: bool = Field(False, description="Let a title with another year count too.")
    hit_weight: float = Field(0.7, ge=0, description="Share of the part `hit`.")
    rank_weight: float = Field(0.3, ge=0, description="Share of the part `rank`.")
    candidate_weight: float = Field(
        0.0, ge=0, description="Share of the part `candidate`; needs `candidates_column`."
    )

    def violations(self) -> Iterator[Violation]:
        """One of the parts counts, and it is known where candidates are."""
        if self.hit_weight == self.rank_weight == self.candidate_weight == 0:
            rule = "all weights of its parts are 0, so that every reward is 0; raise one of them"
            yield Violation(("hit_weight",), self.hit_weight, rule)
        if self.candidate_weight and self.candidates_column is None:
            rule = "needs candidates_column, the column with the list of titles; set it, or set this to 0"
            yield Violation(("candidate_weight",), self.candidate_weight, rule)


class RougeReward(ReferenceReward):
    """Likeness in words to a reference: ROUGE-L, the F1 of the longest common subsequence of words.

    Case and punctuation do not count; Chinese, Japanese, Thai, Lao, Burmese and Khmer characters are words of
    their own. A reference without a word gives no reward. Rows with a column `reference`: `{type: rouge}`;
    with a text and a thumb: `{type: rouge, reference_column: answer, rating_column: thumbs_up}`.
    """

    type: Literal["rouge"] = "rouge"


class ChrfReward(ReferenceReward):
    """Likeness in spelling to a reference: chrF (sacrebleu), the F2 of character n-grams up to six.

    It suits languages with many forms of a word, and sees a near miss that ROUGE does not. Rows with a column
    `reference`: `{type: chrf}`. Needs `pip install 'pgrpo-cli[similarity]'`.
    """

    type: Literal["chrf"] = "chrf"


TextReward = (
    PersonasReward
    | RegexReward
    | LengthReward
    | KeywordReward
    | ReadabilityReward
    | SentimentReward
    | RecommendationReward
    | RougeReward
    | ChrfReward
)
