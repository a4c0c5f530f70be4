"""The only way to print: what others wrote is shown as text, on both consoles and in plain results.

Names, messages and answers come from recipes, models, judges and files of strangers. No markup is read in
them, and characters that would move the cursor, hide text or turn it around are shown as escapes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

_UNSAFE = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and newline
    "\xad\u180e\u200b\u2060-\u2065\ufeff"  # invisible ones; the two joiners belong to scripts and emoji
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f"  # the direction of text
    "\u2028\u2029\ufff9-\ufffb"  # other ends of lines, annotations
    "\ud800-\udfff"  # halves of pairs, as in file names that are no UTF-8
    "\U000e0000-\U000e007f"  # tags
    "]"
)
# Characters that a name keeps while other columns still have room to give, and in the end.
_NAME, _SHORT_NAME = 20, 8
_UNLIMITED = 10_000


def safe(text: str) -> str:
    r"""The text with an escape such as `\u001b`, as JSON has it, for each character that is not shown."""
    return _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class SafeConsole(Console):
    """Text is safe wherever it stands: in tables, in progress bars, in styled text."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:  # type: ignore[override]
        """Before rich drops some control characters without a trace."""
        return super().render_str(safe(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Before lines are cut and cells are filled, so that escapes have their room."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(safe(segment.text), segment.style)

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except OSError:
            if not self.stderr:
                raise
            # A reader of the progress that has gone, a terminal or a pipe, is no reason to stop the command.
            self.quiet = True

    def on_broken_pipe(self) -> None:
        """Leave it to whoever printed."""
        raise


stdout = SafeConsole()
"""Results."""
stderr = SafeConsole(stderr=True)
"""Progress, notes and errors: with --json, standard output holds the JSON alone."""


def stream(piece: str) -> None:
    """Write a piece of a result to standard output, where it is seen at once."""
    sys.stdout.write(safe(piece))
    # A closed pipe must show here, where it is handled, and not when the interpreter shuts down.
    sys.stdout.flush()


def emit(text: str) -> None:
    """Write a result to standard output as it is: no wrapping, no colour."""
    stream(text if text.endswith("\n") else f"{text}\n")


def say(text: str) -> None:
    """Write a line for the reader to standard output; a terminal wraps it."""
    stdout.print(text, soft_wrap=True)


def show_table(table: Table, console: Console = stdout) -> None:
    """Print a table with every character of its cells, of which Rich drops some where there is little room.

    The widest columns become narrower first. Only columns with the overflow `fold`, such as names, are broken
    within words. Lines that are still too long are wrapped by the terminal, and stay whole in a pipe.
    """
    whole = console.options.update(width=_UNLIMITED)
    sizes = [_sizes(column, console, whole) for column in table.columns]
    widths = [size.maximum for size in sizes]
    total = Measurement.get(console, whole, table).maximum
    for kept in (_NAME, _SHORT_NAME):
        floors = [
            min(size.maximum, kept) if column.overflow == "fold" else size.minimum
            for column, size in zip(table.columns, sizes, strict=True)
        ]
        while total > console.width and (wide := [i for i, w in enumerate(widths) if w > floors[i]]):
            widths[max(wide, key=widths.__getitem__)] -= 1
            total -= 1
    for column, width in zip(table.columns, widths, strict=True):
        column.width = width
        if column.no_wrap and isinstance(column.header, Text):
            # Rich would not wrap the heading either, but cut it.
            column.header = Text("\n").join(column.header.wrap(console, width))
    table.width = total
    console.print(table, crop=False)


def _sizes(column: Column, console: Console, whole: ConsoleOptions) -> Measurement:
    """The lengths of the longest word and of the longest line; both that of the line if it is not wrapped."""
    found = [Measurement.get(console, whole, cell) for cell in column.cells]
    longest = max((size.maximum for size in found), default=0)
    words = [longest] if column.no_wrap else [size.minimum for size in found]
    head = Measurement.get(console, whole, column.header)
    return Measurement(max(head.minimum, *words, 1), max(head.maximum, longest, 1))


def ask(prompt: str, *, aside: bool = False) -> str:
    """Show a prompt and read a line that is typed. Raises EOFError at the end of the input.

    `aside`: on standard error, because standard output holds JSON.
    """
    if aside:
        stderr.print(prompt, end="", soft_wrap=True)
        prompt = ""
    return input(safe(prompt))


def note(text: str, head: str = "", style: str = "") -> None:
    """Write a line for the reader to standard error, after a head in a style of its own."""
    stderr.print(Text.assemble((head, style), safe(text)), soft_wrap=True)
