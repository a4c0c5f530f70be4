"""Names that were misspelled, or that Unicode spells in two ways."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to `name`, or None if nothing is close."""
    matches = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def composed(text: str) -> str:
    """The text with a letter and its accent as one character (NFC), as most programs write them."""
    return unicodedata.normalize("NFC", text)
