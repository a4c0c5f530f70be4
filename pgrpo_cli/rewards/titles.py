"""Titles of films, books and songs, as data spell them: `Matrix, The (1999)`, `L'Atalante`, `It (2017)`."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from .text import MARKS, SPACED, fold

MAX_LENGTH = 300
"""Characters of a title."""
YEAR = r"(?:1[89]|20)\d\d"
ENGLISH_ARTICLES = r"the|a|an"
ARTICLES = (
    rf"{ENGLISH_ARTICLES}|le|la|les|l['’]|il|lo|gli|der|die|das|den|det|el|los|las|un|une|una|ein|eine|het"
)
# They are words of English and names, too: a title counts with them only, before or behind it.
_SHORT_ARTICLES = "i|en|ett|de|o|os|as"

_ENDING_YEAR = re.compile(rf"\s*[(\[]\s*({YEAR})(?:\s*[-–—]\s*(?:{YEAR})?)?\s*[)\]]\s*$")
_ALSO_KNOWN_AS = re.compile(r"\(\s*a\.?k\.?a\.?\s+([^()]+)\)", re.IGNORECASE)
_NOTE = re.compile(r"\s*\([^()]*\)")
_INVERTED = re.compile(rf"(.*\w.*),\s*({ARTICLES})", re.IGNORECASE | re.DOTALL)
_ENGLISH_ARTICLE_FIRST = re.compile(rf"\s*(?:{ENGLISH_ARTICLES})\s+(?=.*\w)", re.IGNORECASE | re.DOTALL)
_ARTICLE_FIRST = re.compile(
    rf"\s*({ARTICLES}|{_SHORT_ARTICLES})(?:(?<=['’])|\s+)(.*\w.*)", re.IGNORECASE | re.DOTALL
)
_SHORT_BEHIND = re.compile(rf"(.*\w.*),\s*({_SHORT_ARTICLES})", re.IGNORECASE | re.DOTALL)
_TOKENS = re.compile(rf"\w[\w{MARKS}]*|\W+")
_INSIDE_A_WORD = re.compile(r"['.\-‐-―·]+")

# Words that stand in most texts whatever they are about.
_FUNCTION_WORDS = """
    it its he him his she her hers we us our you your they them their me my mine who whom what when
    where why how which this that these those here there now then once if and but or so yes no not up
    down in on off out over under go do be is was are were can will may just only even more most all any
    some one first new good see let like well still ever never again after before enough maybe please
    thanks hello
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())


@dataclass(frozen=True)
class Title:
    """A title that can be looked for in folded texts (`mentions.FoldedText`).

    `pattern` matches its core, without article and year, in each of its spellings.
    """

    text: str
    pattern: re.Pattern[str]
    year: int | None


@lru_cache(maxsize=100_000)
def read_title(text: str) -> Title | None:
    """The title that `text` spells; None where it has no letter or digit, or is too long to be one."""
    if len(text) > MAX_LENGTH:
        return None
    bare, year = text.replace("_", " "), None
    found = _ENDING_YEAR.search(bare)
    if found and foldable(bare[: found.start()]):
        bare, year = bare[: found.start()], int(found[1])
    names = [bare, *_ALSO_KNOWN_AS.findall(bare)]
    without_notes = _NOTE.sub("", bare)
    if without_notes != bare and foldable(without_notes):
        names.append(without_notes)
    cores = [core for name in names for core in _cores(_ENDING_YEAR.sub("", name))]
    spelt = [_tokens(core) for core in cores if foldable(core)]
    if not spelt:
        return None
    patterns = dict.fromkeys(_pattern(tokens) for tokens in sorted(spelt, key=len, reverse=True))
    return Title(text, re.compile("|".join(patterns)), year)


def foldable(text: str) -> bool:
    """Whether something is left of the text to compare."""
    return re.search(r"[^\W_]", fold(text)) is not None


def fold_ampersand(text: str) -> str:
    """Folded, `&` read as the word and `_` as a blank."""
    return fold(text).replace("&", " and ").replace("_", " ")


def _cores(name: str) -> list[str]:
    """The spellings of a name that count, without an article where it is sure to be one."""
    name = name.strip()
    if inverted := _INVERTED.fullmatch(name):
        return [inverted[1]]
    if behind := _SHORT_BEHIND.fullmatch(name):
        return [name, f"{behind[2]} {behind[1]}"]
    if english := _ENGLISH_ARTICLE_FIRST.match(name):
        return [name[english.end() :]]
    if foreign := _ARTICLE_FIRST.fullmatch(name):
        # Die Hard begins with no article: only the whole name counts, in both orders.
        return [name, f"{foreign[2]}, {foreign[1]}"]
    return [name]


def _tokens(core: str) -> list[str]:
    """Words and the separators between them, from a word to a word."""
    pieces = _TOKENS.findall(fold_ampersand(core))
    if not pieces[0][0].isalnum():
        pieces = pieces[1:]
    return pieces[:-1] if len(pieces) % 2 == 0 else pieces


def _pattern(tokens: list[str]) -> str:
    """A hyphen, dot or apostrophe inside a word may be left out; words are parted by up to five signs, or by
    as many as the title itself has there.
    """
    # A mark parts no words. Such a pattern takes long to compile, and no mark follows a letter of ASCII.
    sign = r"[^\w\n]" if "".join(tokens).isascii() else rf"(?![{MARKS}])[^\w\n]"
    body = "".join(
        sign + _times(token) if index % 2 else re.escape(token) for index, token in enumerate(tokens)
    )
    start = "" if _joined(tokens[0][0]) else rf"(?<!{SPACED})"
    end = rf"(?![{MARKS}])" if _joined(tokens[-1][-1]) else rf"(?!{SPACED})"
    return f"{start}{body}{end}"


def _times(separator: str) -> str:
    least, most = (0, 3) if _INSIDE_A_WORD.fullmatch(separator) else (1, 5)
    return f"{{{least},{max(most, len(separator))}}}"


def _joined(char: str) -> bool:
    """Whether the character's script may write words without blanks, or with endings that are joined."""
    scripts = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "THAI", "LAO", "MYANMAR", "KHMER")
    return unicodedata.name(char, "").startswith((*scripts, "COMBINING KATAKANA"))


def is_common(word: str) -> bool:
    """Whether a folded word says little by itself: a number, a letter, or a function word."""
    return word.isdecimal() or (len(word) == 1 and word.isascii()) or word in FUNCTION_WORDS
