"""How problems of a recipe are worded: `where: dotted.path: found VALUE; rule; did you mean X?`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pgrpo_cli.errors import RecipeError
from pgrpo_cli.names import nearest

KeyPath = tuple[str | int, ...]
"""Keys and list indices from the top of the recipe down to a value."""

MOST_PROBLEMS = 100
"""Problems of one recipe that are worded. The others are like them, or the file is no recipe."""
_SHOWN = 60
_MOST_TEXT = 1000


@dataclass(frozen=True)
class Problem:
    """One mistake. `where` is `file:line`, or the override as it was typed."""

    where: str
    path: KeyPath
    text: str

    def __str__(self) -> str:
        keys = dotted(plain(str(key)) for key in self.path)
        text = plain(self.text, _MOST_TEXT)
        return f"{self.where}: {keys}: {text}" if keys else f"{self.where}: {text}"


class InvalidRecipe(RecipeError):
    """All problems of one recipe, in `problems`, for editors and tests; the message has one per line."""

    def __init__(self, label: str, problems: Sequence[Problem], *, remedy: str | None = None) -> None:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        if len(problems) > MOST_PROBLEMS:
            count = f"more than {MOST_PROBLEMS} problems; the first of them:"
        lines = "\n".join(f"  {problem}" for problem in problems[:MOST_PROBLEMS])
        super().__init__(f"{label} has {count}\n{lines}", remedy=remedy)
        self.problems = tuple(problems)


def dotted(path: Iterable[str | int]) -> str:
    """`("rewards", 0, "weight")` is `rewards.0.weight`, as in --set."""
    return ".".join(str(key) for key in path)


def show(value: Any) -> str:
    """A value as a reader would write it, on one line and cut to a readable length."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, (list, tuple)):
        return "a list" if value else "an empty list"
    try:
        text = json.dumps(value, ensure_ascii=False)
    except ValueError:
        text = "a number too long to print"
    return plain(text)


def plain(text: str, most: int = _SHOWN) -> str:
    """`text` on one line and cut to a readable length; what cannot be printed is written as an escape."""
    if len(text) > most:
        text = f"{text[: most - 3]}..."
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def choices(names: Iterable[str]) -> str:
    """`one of 'a', 'b' or 'c'`, in the order given."""
    quoted = [repr(name) for name in names]
    if len(quoted) == 1:
        return quoted[0]
    return f"one of {', '.join(quoted[:-1])} or {quoted[-1]}"


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing where no known name is near."""
    near = nearest(name, known) if isinstance(name, str) else None
    return f"; did you mean {near!r}?" if near else ""
