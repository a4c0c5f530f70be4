"""What a recipe's Jinja may call, each with bounds on its work and on the text that it makes."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jinja2 import Environment, Undefined, pass_environment
from jinja2.filters import FILTERS as JINJA_FILTERS
from jinja2.filters import make_attrgetter

MAX_CHARACTERS = 1_000_000
MAX_ITEMS = 10_000
CHARACTERS_PER_ITEM = 10_000
MAX_PRECISION = 20


class TemplateProblem(Exception):
    """Why Jinja is none of ours, or fails on its variables; the message is the whole reason."""


class Budget:
    """Counts loop passes and calls of one run; the size of what a filter or method gets counts too."""

    def __init__(self) -> None:
        self.left = MAX_ITEMS

    def reset(self) -> None:
        self.left = MAX_ITEMS

    def spend(self, items: int) -> None:
        """Raises TemplateProblem where nothing is left."""
        self.left -= items
        if self.left < 0:
            raise TemplateProblem(f"more than {MAX_ITEMS:,} loop passes and calls")

    def charge(self, *values: Any) -> None:
        """Pays for a call that works on these values. Raises TemplateProblem."""
        sizes = (len(value) for value in values if isinstance(value, str | list | dict))
        self.spend(1 + sum(sizes) // CHARACTERS_PER_ITEM)

    def counted(self, items: Iterable[Any]) -> Iterator[Any]:
        """The items, each of them paid for."""
        for item in items:
            self.spend(1)
            yield item

    def charged(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter whose calls are paid for, with the same marks that tell Jinja what to pass."""

        @functools.wraps(function)
        def charging(*args: Any, **kwargs: Any) -> Any:
            self.charge(*args)
            return function(*args, **kwargs)

        return charging


def short(text: str) -> str:
    """`text` where it is no longer than a prompt may be. Raises TemplateProblem."""
    if len(text) > MAX_CHARACTERS:
        raise TemplateProblem(f"more than {MAX_CHARACTERS:,} characters")
    return text


def small(number: Any) -> Any:
    """`number` where it is of a common size. Raises TemplateProblem."""
    if isinstance(number, int) and abs(number) >= 1 << 63:
        raise TemplateProblem("a whole number of more than 63 bits")
    return number


def as_text(value: Any) -> str:
    """Text or a number as text. Raises TemplateProblem, and jinja2's UndefinedError."""
    if value is None:
        raise TemplateProblem("writes a null; give it another value, such as {{ name or '' }}")
    if isinstance(value, str | int | float | Undefined):
        return str(value)
    raise TemplateProblem(f"writes a {type(value).__name__}; use |join or |tojson")


@pass_environment
def _join(environment: Environment, value: Iterable[Any], d: str = "", attribute: str | None = None) -> str:
    get = make_attrgetter(environment, attribute) if attribute is not None else lambda item: item
    parts: list[str] = []
    length = 0
    for item in value:
        parts.append(as_text(get(item)))
        length += len(parts[-1]) + len(d)
        if length > MAX_CHARACTERS:
            raise TemplateProblem(f"more than {MAX_CHARACTERS:,} characters")
    return as_text(d).join(parts)


def _replace(value: Any, old: str, new: str) -> str:
    text = as_text(value)
    if len(text) + text.count(old) * len(new) > MAX_CHARACTERS:
        raise TemplateProblem(f"more than {MAX_CHARACTERS:,} characters")
    return text.replace(old, new)


def _round(value: float, precision: int = 0) -> float:
    if not isinstance(precision, int) or abs(precision) > MAX_PRECISION:
        raise TemplateProblem(f"round takes a precision of at most {MAX_PRECISION}")
    return round(float(value), precision)


@pass_environment
def _sum(environment: Environment, value: Iterable[Any], attribute: str | None = None) -> Any:
    get = make_attrgetter(environment, attribute) if attribute is not None else lambda item: item
    total: Any = 0
    for item in value:
        number = get(item)
        if not isinstance(number, int | float):
            raise TemplateProblem(f"sum is for numbers, found a {type(number).__name__}")
        total = small(total + number)
    return total


def _tojson(value: Any) -> str:
    parts: list[str] = []
    length = 0
    # In pieces: a list that holds one list many times is short in memory and endless as text.
    for part in json.JSONEncoder(ensure_ascii=False).iterencode(value):
        parts.append(part)
        length += len(part)
        if length > MAX_CHARACTERS:
            raise TemplateProblem(f"more than {MAX_CHARACTERS:,} characters")
    return "".join(parts)


_AS_IN_JINJA = (
    "abs capitalize count d default dictsort first float groupby int items last length list lower map max "
    "min reject rejectattr reverse select selectattr sort title trim truncate unique upper wordcount"
)
FILTERS: dict[str, Callable[..., Any]] = {
    **{name: JINJA_FILTERS[name] for name in _AS_IN_JINJA.split()},
    "join": _join,
    "replace": _replace,
    "round": _round,
    "string": as_text,
    "sum": _sum,
    "tojson": _tojson,
}
