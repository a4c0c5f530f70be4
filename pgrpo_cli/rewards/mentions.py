"""Where a text names which titles.

A match in the text is a mention if it reads as a title there: titles of several words always do; one of a
single word must be capitalised; a number or a function word must be set apart, by quotes, emphasis, a year in
brackets or a line of its own, or (a word) be capitalised inside a sentence.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from .text import fold
from .titles import ARTICLES, YEAR, Title, fold_ampersand, is_common

_OPENING, _CLOSING = "\"'“‘«„*_「『《", "\"'”’»*_」』》"
_BEFORE = f"([{_OPENING}"
_ARTICLE_BEFORE = re.compile(rf"(?<!\w)(?:{ARTICLES})(?:(?<=['’])|\s+)[{_OPENING}]*$", re.IGNORECASE)
_AFTER = re.compile(
    rf"(?:,\s*(?:{ARTICLES})(?!\w))?[.!?…)\]]*(?P<closing>[{_CLOSING}]*)"
    rf"(?:\s*[(\[]\s*(?P<bracketed>{YEAR})(?:\s*[-–—]\s*(?:{YEAR})?)?\s*[)\]]"
    rf"|(?<![.!?…)\]])[^\S\n](?P<bare>{YEAR})(?!\w))?",
    re.IGNORECASE,
)
_MARKER = r"(?:[-*•–—>#+]+|\(?\d{1,3}[.):])[^\S\n]+"
_ITEM_START = re.compile(rf"[^\S\n]*(?P<marker>{_MARKER})?[(\[{_OPENING}]*$")
_LINE_END = re.compile(rf"[{_CLOSING}.,!?)\]]*[^\S\n]*(?:\n|$)")
_ITEM_END = re.compile(rf"[{_CLOSING}]*[^\S\n]*(?:[-–—:;,.|(]|\n|$)")
_SENTENCE_ENDS = ".!?…:\n"
_LIST_ITEM = re.compile(rf"(?m)^[^\S\n]*{_MARKER}\S")
_SEPARATOR = re.compile(r"[,;\n](?:\s{0,20}(?:and|or)(?!\w))?|(?<!\w)(?:and|or)(?!\w)", re.IGNORECASE)
_QUOTATION = re.compile(
    r"“([^”\n]{1,120})”|\"([^\"\n]{1,120})\"|«([^»\n]{1,120})»|‘([^’\n]{1,120})’"
    r"|\*{1,3}([^*\n]{1,120})\*{1,3}|(?<!\w)_([^_\n]{1,120})_(?!\w)|(?<!\w)'([^'\n]{1,120})'(?!\w)"
)
_MOST_WORDS_OF_A_TITLE = 8
_LONGEST_ITEM_START = 60
"""Characters of indentation, marker and quotes before the first word of a list item."""


@dataclass(frozen=True)
class FoldedText:
    """A text, its folded form, and for each folded character the place of the one that it comes from."""

    raw: str
    folded: str
    origin: Sequence[int] = field(repr=False)

    @classmethod
    def of(cls, raw: str) -> FoldedText:
        """Folded as titles are."""
        pieces = [" and " if char == "&" else " " if char == "_" else fold(char) for char in raw]
        origin = [index for index, piece in enumerate(pieces) for _ in piece]
        return cls(raw, "".join(pieces), origin)

    def raw_span(self, start: int, end: int) -> tuple[int, int]:
        """The span in the text of a span of its folded form."""
        # Accents fold to nothing and belong to the letter before them.
        following = self.origin[end] if end < len(self.origin) else len(self.raw)
        return self.origin[start], max(following, self.origin[end - 1] + 1)


@dataclass(frozen=True)
class Mention:
    """A title named at `start`; `titles` are the indices of all titles that it may stand for."""

    start: int
    titles: frozenset[int]


def find_mentions(text: str, titles: Sequence[Title], *, ignore_year: bool = False) -> list[Mention]:
    """The mentions of `titles` in a text, in order. The time it takes grows as the text does.

    Where matches overlap, the longest is taken. A mention beside which stands a year names titles of that
    year, or without one, only; one without a year names every title so called.
    """
    folded = FoldedText.of(text)
    spans: dict[tuple[int, int], list[int]] = {}
    for index, title in enumerate(titles):
        for match in title.pattern.finditer(folded.folded):
            spans.setdefault(folded.raw_span(*match.span()), []).append(index)
    taken: list[tuple[int, int]] = []
    covered = bytearray(len(text))
    for start, end in sorted(spans, key=lambda span: (span[0] - span[1], span[0])):
        if covered.find(1, start, end) < 0:
            covered[start:end] = b"\1" * (end - start)
            taken.append((start, end))
    mentions = []
    for start, end in sorted(taken):
        named = _named(text, start, end, {i: titles[i] for i in spans[start, end]}, ignore_year)
        if named:
            mentions.append(Mention(start, named))
    return mentions


def _named(text: str, start: int, end: int, titles: dict[int, Title], ignore_year: bool) -> frozenset[int]:
    """The titles that the match names; none where it does not read as a title, or the year is wrong."""
    article = _ARTICLE_BEFORE.search(text, max(0, start - 12), start)
    after = _AFTER.match(text, end)
    assert after is not None
    year = after["bracketed"] or after["bare"]
    outer = article.start() if article else start
    apart = _set_apart(text, outer, start, end, after)
    if not (apart or _reads_as_title(text, start, end, outer)):
        return frozenset()
    return frozenset(
        index
        for index, title in titles.items()
        if ignore_year or year is None or title.year in (None, int(year))
    )


def _set_apart(text: str, outer: int, start: int, end: int, after: re.Match[str]) -> bool:
    """By marks around it, a year in brackets, or a line or list item; `outer` is where its article starts."""
    if after["bracketed"]:
        return True
    marked = any(place > 0 and text[place - 1] in _OPENING for place in (start, outer))
    if marked and after["closing"]:
        return True
    line = text.rfind("\n", max(0, outer - _LONGEST_ITEM_START), outer) + 1
    near = line > 0 or outer < _LONGEST_ITEM_START
    item = _ITEM_START.match(text, line, outer) if near else None
    if item is None:
        return False
    ending = _ITEM_END if item["marker"] else _LINE_END
    # What looks like an article behind the title may begin its description: "It, a film".
    return any(ending.match(text, place) for place in (after.end(), end))


def _reads_as_title(text: str, start: int, end: int, outer: int) -> bool:
    """Whether the match is a title in running text; `outer` is where its article starts."""
    found = text[start:end]
    words = re.findall(r"\w+", fold_ampersand(found))
    if len(words) > 1:
        return True
    if not is_common(words[0]):
        return not found[0].islower()
    titled = len(found) > 1 and found[0].isupper() and found[1:].islower()
    contracted = text[end : end + 1] in ("'", "’")
    return titled and not contracted and not _begins_a_sentence(text, outer)


def _begins_a_sentence(text: str, place: int) -> bool:
    """Whether only spaces, brackets and quotes are between the place and the end of a sentence before it."""
    while place > 0 and text[place - 1] != "\n" and (text[place - 1].isspace() or text[place - 1] in _BEFORE):
        place -= 1
    return place == 0 or text[place - 1] in _SENTENCE_ENDS


def outside_quotations(text: str, mentions: Sequence[Mention], titles: Sequence[Title]) -> list[Mention]:
    """The mentions, without pieces of a quoted title: “The Matrix Reloaded” names no Matrix."""
    quoted = _quoted_titles(text)
    starts = [start for start, _, _ in quoted]
    kept = []
    for mention in mentions:
        # Quotations do not overlap: the last one that starts before a mention may be around it.
        index = bisect_right(starts, mention.start) - 1
        if index >= 0 and mention.start < quoted[index][1]:
            content = quoted[index][2]
            if not any(_is_whole(titles[i], content) for i in mention.titles):
                continue
        kept.append(mention)
    return kept


def place(text: str, mention: Mention) -> int:
    """Place of a mention in the text, from 1: of its list item, else its quotation, else its piece."""
    items = [match.start() for match in _LIST_ITEM.finditer(text)]
    quoted = [start for start, _, _ in _quoted_titles(text)]
    for starts in (items, quoted):
        if len(starts) > 1:
            return max(1, sum(start <= mention.start for start in starts))
    return 1 + sum(separator.start() < mention.start for separator in _SEPARATOR.finditer(text))


def _quoted_titles(text: str) -> list[tuple[int, int, str]]:
    """(start, end, content) of quotations that may be titles: a few words, no sentence and no list."""
    found = []
    for match in _QUOTATION.finditer(text):
        content = next(group for group in match.groups() if group is not None)
        if len(content.split()) <= _MOST_WORDS_OF_A_TITLE and not re.search(r"[;!?.](?:\s|$)", content):
            found.append((match.start(), match.end(), content))
    return found


def _is_whole(title: Title, content: str) -> bool:
    """Whether the title fills the quotation, apart from article, year and punctuation."""
    folded = FoldedText.of(content)
    for match in title.pattern.finditer(folded.folded):
        start, end = folded.raw_span(*match.span())
        article = _ARTICLE_BEFORE.search(content, 0, start)
        after = _AFTER.match(content, end)
        assert after is not None
        rest = content[: article.start() if article else start] + content[after.end() :]
        if not any(char.isalnum() for char in rest):
            return True
    return False
