"""JSON that is not one object per line: the items of an array, or indented objects one after the other."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator

from pgrpo_cli.errors import DataError

from .text_lines import MAX_ROW, too_long

CHUNK = 1 << 16
_SPACE = re.compile(r"[ \t\r\n]*")
# It finds where a value ends; what the value says, and whether it may, is read afterwards.
_DECODER = json.JSONDecoder(parse_int=float, parse_constant=float)


def json_values(text: io.TextIOBase, name: str) -> Iterator[tuple[int, str]]:
    """(line of its beginning, text) of each item of an array, or of each value.

    A value is held in memory only while it is looked at. Raises DataError, with file and line, where the text
    is no JSON: what follows could be anything.
    """
    reader = _Reader(text, name)
    array = reader.next() == "["
    if array:
        reader.skip()
    closed = array and reader.next() == "]"
    while not closed and reader.next():
        yield reader.line, reader.value()
        if array:
            sign = reader.next()
            if sign not in (",", "]"):
                raise reader.problem(f"',' or ']' is needed after an item, found {sign or 'the end'!r}")
            reader.skip()
            closed = sign == "]"
            if not closed and not reader.next():
                raise reader.problem("the array is not closed")
    if array and not closed:
        raise reader.problem("the array is not closed")
    if closed and reader.next():
        raise reader.problem("the file continues after the array")


def begins_with_a_value(head: str) -> bool:
    """Whether a whole JSON value stands at the beginning of the text."""
    try:
        _DECODER.raw_decode(head, _space(head, 0))
    except (ValueError, RecursionError):
        return False
    return True


class _Reader:
    """A text of which a piece is in memory; `line` is that of the place where the reader is."""

    def __init__(self, text: io.TextIOBase, name: str) -> None:
        self._text = text
        self._name = name
        self._buffer = ""
        self._place = 0
        self._all_read = False
        self.line = 1

    def next(self) -> str:
        """The next sign that is no space, which is not passed; '' at the end."""
        while True:
            self._pass(_space(self._buffer, self._place))
            if self._place < len(self._buffer) or self._all_read:
                return self._buffer[self._place : self._place + 1]
            self._read_on()

    def skip(self) -> None:
        """Pass one sign."""
        self._pass(self._place + 1)

    def value(self) -> str:
        """The text of the value that begins here."""
        while True:
            try:
                _, end = _DECODER.raw_decode(self._buffer, self._place)
                # The rest of a number may not have been read yet.
                if end < len(self._buffer) or self._all_read:
                    found = self._buffer[self._place : end]
                    self._pass(end)
                    return found
            except RecursionError as error:
                raise self.problem("lists and objects are nested too deep") from error
            except ValueError as error:
                if self._all_read:
                    raise self.problem(getattr(error, "msg", str(error)), error) from error
            if len(self._buffer) - self._place > MAX_ROW:
                raise too_long(f"{self._name}:{self.line}")
            self._read_on()

    def problem(self, what: str, error: ValueError | None = None) -> DataError:
        place = getattr(error, "pos", self._place)
        line = self.line + self._buffer.count("\n", self._place, place)
        return DataError(
            f"{self._name}:{line}: not JSON: {what}",
            remedy="Correct the file, or write one object per line (JSON lines): then a broken one costs "
            "itself only.",
        )

    def _pass(self, end: int) -> None:
        self.line += self._buffer.count("\n", self._place, end)
        self._place = end

    def _read_on(self) -> None:
        """As much again as there is of the value, so that a long one is looked at few times."""
        rest = self._buffer[self._place :]
        more = self._text.read(max(CHUNK, len(rest)))
        self._all_read = not more
        self._buffer, self._place = rest + more, 0


def _space(text: str, start: int) -> int:
    found = _SPACE.match(text, start)
    assert found is not None
    return found.end()
