"""What code of the user's, or of a package, has raised or returned, in words that do not raise themselves."""

from __future__ import annotations

import linecache
import sysconfig
import traceback
from pathlib import Path
from typing import Any

_LONGEST = 500
"""Characters of what an error says; of a value or a line of code, fewer are shown."""
_LONGEST_VALUE = 120
_OURS = f"{Path(__file__).resolve().parents[1]}/"
_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def described(error: BaseException) -> str:
    """The type of an error, and what it says."""
    try:
        said = str(error)
    except Exception:
        said = "it cannot say why"
    return f"{type(error).__name__}: {_cut(said, _LONGEST)}"


def written(value: Any) -> str:
    """A value as code writes it."""
    try:
        return _cut(repr(value), _LONGEST_VALUE)
    except Exception:
        return f"something of type {type(value).__name__} that cannot be written"


def place_of(error: BaseException) -> str | None:
    """`file:line: code` of the last line of the user's that ran, else of a package's; None where none did."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return _place(error.filename, error.lineno, error.text or "")
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((_OURS, "<frozen "))
    ]
    own = [frame for frame in frames if not frame.filename.startswith(_INSTALLED)]
    if not frames:
        return None
    last = (own or frames)[-1]
    return _place(last.filename, last.lineno or 0, last.line or "")


def definition_of(function: Any) -> str | None:
    """`file:line: code` of the first line of a function."""
    code = getattr(function, "__code__", None)
    if code is None:
        return None
    line = linecache.getline(code.co_filename, code.co_firstlineno)
    return _place(code.co_filename, code.co_firstlineno, line)


def _place(file: str, line: int, code: str) -> str:
    return f"{file}:{line}: {_cut(code.strip(), _LONGEST_VALUE)}"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}..."
