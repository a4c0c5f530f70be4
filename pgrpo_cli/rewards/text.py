"""Counting in texts, shared by the rewards."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby


def _marks() -> str:
    """Unicode's marks in ranges, without those of symbols and emoji, and the two joiners of letters."""
    symbols = {*range(0x20D0, 0x2100), *range(0xFE00, 0xFE10)}
    marks = (
        code
        for code in range(0x300, 0x20000)
        if unicodedata.category(chr(code)).startswith("M") and code not in symbols
    )
    # In a run of neighbours the distance to their number in the sequence is the same.
    runs = [list(run) for _, run in groupby(enumerate(marks), lambda pair: pair[1] - pair[0])]
    return "".join(f"{chr(run[0][1])}-{chr(run[-1][1])}" for run in runs) + r"\u200c\u200d"


UNSPACED = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
"""Characters of scripts that write words without blanks, for a set in a pattern: kana, Han, Thai, Lao,
Burmese, Khmer."""
MARKS = _marks()
"""Signs that belong to the letter before them, for a set in a pattern: the vowels of Hindi, accents of their
own. To `\\w` most of them are no part of a word."""
SPACED = rf"(?:[^\W_{UNSPACED}]|(?![{UNSPACED}])[{MARKS}])"
"""A character of the other scripts, beside which a word has not ended. The underscore, a sign of
Markdown, is not one."""
_LETTERS = rf"(?:[^\W\d_{UNSPACED}][{MARKS}]*)+"
WORD = re.compile(rf"(?=[^\W\d_])[{UNSPACED}]|{_LETTERS}(?:['’]{_LETTERS})*")
_CLOSING = r"[\"'”’»›」』)\]}*_~`]*"
SENTENCE_END = re.compile(rf"[.!?…]+{_CLOSING}(?=\s|$)|[。！？｡।॥۔؟։።။។]+|\n+")
_ACCENTS = frozenset([1, *range(10, 37), *range(200, 256)])
"""Unicode's combining classes of marks that may be left out: accents, and the points of Hebrew and Arabic.
Not those that make another letter or syllable, as in Japanese, Hindi and Thai."""


def words(text: str) -> list[str]:
    """Runs of letters, apostrophes inside kept: "Don't stop" gives two. A letter of `UNSPACED` is a word."""
    return WORD.findall(text)


def is_blank(text: str) -> bool:
    """Whether it says nothing: it has no letter and no digit."""
    return not any(map(str.isalnum, text))


def sentences(text: str) -> list[str]:
    """Pieces between sentence ends or line breaks that hold at least one word."""
    return [piece.strip() for piece in SENTENCE_END.split(text) if WORD.search(piece)]


def lines(text: str) -> list[str]:
    """Non-blank lines, stripped."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def fold(text: str) -> str:
    """Lower case without accents, curly apostrophes made straight: the form in which terms are compared."""
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text.replace("’", "'"))
    return "".join(char for char in decomposed if unicodedata.combining(char) not in _ACCENTS).casefold()


def ramp(value: float, start: float, end: float) -> float:
    """0 at `start`, 1 at `end`, linear between and flat outside; `start` may lie above `end`."""
    return min(1.0, max(0.0, (value - start) / (end - start)))


def inside(value: float, low: float | None, high: float | None, slack: float) -> float:
    """1 where low <= value <= high (None: no bound), falling linearly to 0 at `slack` outside of it."""
    below = 0.0 if low is None else low - value
    above = 0.0 if high is None else value - high
    return max(0.0, 1 - max(below, above, 0.0) / slack)


_SPACED = re.compile(SPACED)


@dataclass(frozen=True)
class Term:
    """What finds a term in folded texts. `literal` is a piece of it that each of its occurrences holds."""

    literal: str
    expression: str

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Compiled when it is first searched for: the lists of the personas take more than a second."""
        return re.compile(self.expression)

    def occurs(self, folded: str) -> bool:
        """Whether the folded text holds the term; without the piece the slower pattern is spared."""
        return self.literal in folded and self.pattern.search(folded) is not None


def whole_term(term: str, ending: str = "") -> Term:
    """What finds a term as whole words; a blank matches hyphens. `ending`: a pattern for what may follow.

    In and beside scripts without blanks nothing says where a word begins and ends, so nothing is asked for
    but that its last letter has no further mark. Beside a sign that is no letter, as in `C++`, neither.
    Raises ValueError for a blank term.
    """
    pieces = fold(term).split()
    if not pieces:
        raise ValueError("a blank term")
    body = r"[\s-]+".join(re.escape(piece) for piece in pieces)
    start = rf"(?<!{SPACED})" if _SPACED.match(pieces[0][0]) else ""
    end = rf"(?!{SPACED})" if ending or _SPACED.match(pieces[-1][-1]) else rf"(?![{MARKS}])"
    return Term(max(pieces, key=len), f"{start}{body}{ending}{end}")


def listed_terms(text: str) -> tuple[Term, ...]:
    """The terms of a comma-separated list; `symph*` is a prefix."""
    terms = [term.strip() for term in text.split(",") if term.strip()]
    return tuple(whole_term(t.rstrip("*"), rf"[\w{MARKS}]*" if t.endswith("*") else "") for t in terms)


def distinct_hits(terms: Iterable[Term], text: str) -> int:
    """How many of the terms occur in the text; one that occurs twice counts once."""
    folded = fold(text)
    return sum(term.occurs(folded) for term in terms)
