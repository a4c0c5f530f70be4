"""Text files line by line: in any encoding, and never more of a line in memory than a row may have."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import IO, TypeVar

from pgrpo_cli.data.row_problem import RowProblem
from pgrpo_cli.errors import DataError

Line = TypeVar("Line", str, bytes)

MAX_ROW = 1 << 24
"""Characters of a row, which is far beyond any prompt; a longer line is no row but another kind of file."""
OR_SET = ", or set data.source.encoding to the file's, perhaps 'cp1252'"
"""The end of what is said of a row in another encoding, of a file that is a source's."""


def text_of(file: IO[bytes], encoding: str, newline: str) -> io.TextIOWrapper:
    """The text of a file. A byte that cannot be decoded is kept as a surrogate: only its own row is lost."""
    # A byte order mark is skipped where there is one.
    codec = "utf-8-sig" if encoding == "utf-8" else encoding
    return io.TextIOWrapper(file, encoding=codec, errors="surrogateescape", newline=newline)


def lines_of(text: io.TextIOWrapper, name: str, encoding: str) -> Iterator[str]:
    """The lines, each with its end. Raises DataError for one that is too long, or of another encoding."""
    try:
        yield from bounded(text.readline, name)
    except UnicodeError as error:
        raise not_encoded(name, encoding, error) from error


def bounded(readline: Callable[[int], Line], name: str) -> Iterator[Line]:
    """What `readline` gives, line by line. Raises DataError for one that is too long."""
    number = 0
    while line := readline(MAX_ROW + 1):
        number += 1
        if len(line) > MAX_ROW:
            raise too_long(f"{name}:{number}")
        yield line


def too_long(where: str) -> DataError:
    """A row that would not fit in memory where the next one is longer still."""
    return DataError(
        f"{where}: the row has more than {MAX_ROW:,} characters, the most that a row may have",
        remedy="Check that this is the right file, and that each of its rows is on a line of its own.",
    )


def not_encoded(name: str, encoding: str, error: UnicodeError) -> DataError:
    """What is wrong with all of a file."""
    return DataError(f"{name} is not {encoding}: {error}", remedy="Set data.source.encoding to the file's.")


def text_problem(text: str, encoding: str) -> RowProblem | None:
    """What makes a row no text of the encoding that it was read in."""
    if "\0" in text:
        return RowProblem("NUL byte", f"at character {text.index(chr(0)) + 1} of the row")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        byte = ord(text[error.start]) & 0xFF
        found = f"byte 0x{byte:02x} at character {error.start + 1}; save the file as UTF-8{OR_SET}"
        return RowProblem(f"not {encoding.upper()}", found)
    return None


def legible(text: str) -> str:
    """The text with a replacement character for each byte that cannot be decoded."""
    return text.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="replace")
