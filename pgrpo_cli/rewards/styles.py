"""Seven linguistic styles as scores in [0, 1].

Each score is a slope, not a verdict: ordinary answers of an untrained chat model already differ in it, which
is what reinforcement learning starts from.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from .text import MARKS, UNSPACED, distinct_hits, lines, listed_terms, ramp, sentences, words

BULLET = re.compile(r"^(?:[-*•–]|\d{1,2}[.)])\s*\S")
QUESTION = re.compile(rf"[\w{MARKS}]['’\")]*\s*[?？؟]")
MARK = re.compile(f"[{MARKS}]")
LONE_LETTER = re.compile(f"[^{UNSPACED}]")
# One pass over any text: with the end required, a text without one would be tried from each of its letters.
SENTENCE = re.compile(r"([^.!?\n]+)([.!?]?)")
CONTRACTION = re.compile(r"(?<!\w)\w+['’](?:s|m|d|ll|re|ve|t)(?!\w)", re.IGNORECASE)

EMPHATIC = listed_terms(
    """
    amazing, awesome, incredible, fantastic, love, absolutely, totally, wow, perfect, best, wonderful, great,
    brilliant, fabulous, epic, yes, thrill*, excit*, happy, enjoy*, fun, beautiful, really, super, definitely,
    unforgettable, magic*
    """
)
CONNECTIVES = listed_terms("and, but, while, which, as, then, so, because, until, where, that, with, yet")
FORMAL = listed_terms(
    """
    would, may i, suggest*, recommend*, suitable, appropriate, furthermore, moreover, however, therefore,
    additionally, consider*, kindly, please, certainly, indeed, such as, regarding, pleasure, esteemed,
    propose*, accordingly, selection*, one might, particularly, notably, exquisite, refined
    """
)
SECOND_PERSON = listed_terms("you, your, yours, yourself")
INTERROGATIVE = listed_terms(
    "how about, what, why not, which, do you, would you, have you, could you, are you, shall we, who, when"
)


def textness(text: str) -> float:
    """How far a completion is text: 0 without a word, at most 0.5 for one, less for repetition and signs."""
    found = [word.lower() for word in words(text) if not LONE_LETTER.fullmatch(word)]
    if not found:
        return 0.0
    visible = [char for char in text if not char.isspace()]
    letters = sum(char.isalpha() or MARK.match(char) is not None for char in visible) / len(visible)
    distinct = len(set(found)) / len(found)
    plausible = sum(len(word) <= 20 for word in found) / len(found)
    enough = 0.5 if len(found) == 1 else 1.0
    return enough * ramp(distinct, 0.15, 0.6) * ramp(letters, 0.3, 0.6) * plausible


def terse(text: str) -> float:
    """1 up to 6 words, falling to 0 at 40."""
    return ramp(len(words(text)), 40, 6)


def flowing(text: str) -> float:
    """Words a sentence (full at 28) and commas with connectives (full at 6)."""
    pieces = sentences(text)
    if not pieces:
        return 0.0
    length = len(words(text)) / len(pieces)
    joints = text.count(",") + text.count(";") + sum(distinct_hits(CONNECTIVES, piece) for piece in pieces)
    return 0.6 * ramp(length, 5, 28) + 0.4 * ramp(joints, 0, 6)


def excited(text: str) -> float:
    """Exclamation marks (1 each) and emphatic words (0.5 each), as 1 - exp(-hits / 2), full from 5 on."""
    hits = text.count("!") + 0.5 * distinct_hits(EMPHATIC, text)
    return min(1.0, (1 - math.exp(-hits / 2)) / (1 - math.exp(-5 / 2)))


def asking(text: str) -> float:
    """Question marks, the share of finished sentences that are questions, and words that address someone."""
    ends = [end for body, end in SENTENCE.findall(text) if end and re.search(r"\w", body)]
    share = ends.count("?") / len(ends) if ends else 0.0
    address = 0.5 * distinct_hits(SECOND_PERSON, text) + 0.5 * distinct_hits(INTERROGATIVE, text)
    return 0.4 * ramp(len(QUESTION.findall(text)), 0, 2) + 0.4 * share + 0.2 * ramp(address, 0, 2)


def bulleted(text: str) -> float:
    """A colon, line breaks, bullets (up to 3 count) and the share of lines that start with one."""
    found = lines(text)
    bullets = sum(BULLET.match(line) is not None for line in found)
    share = bullets / len(found) if found else 0.0
    layout = 0.1 * (":" in text or bullets > 0) + 0.25 * ramp(len(found), 1, 3)
    return layout + 0.3 * ramp(bullets, 0, 3) + 0.35 * share


def capitals(text: str) -> float:
    """Square root of the share of upper-case letters, full at 90 %: the first capitals count most."""
    letters = [char for char in text if char.isalpha()]
    share = sum(char.isupper() for char in letters) / len(letters) if letters else 0.0
    return math.sqrt(ramp(share, 0, 0.9))


def formal(text: str) -> float:
    """Formal words (up to 3 count), and no contraction and no exclamation mark."""
    casual = len(CONTRACTION.findall(text)) + text.count("!")
    return 0.4 * ramp(casual, 2, 0) + 0.6 * ramp(distinct_hits(FORMAL, text), 0, 3)


STYLES: dict[str, Callable[[str], float]] = {
    "terse": terse,
    "flowing": flowing,
    "excited": excited,
    "asking": asking,
    "bulleted": bulleted,
    "capitals": capitals,
    "formal": formal,
}
