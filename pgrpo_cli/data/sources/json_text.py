"""JSON as rows are written in it: one text is one object, or a problem of that row."""

from __future__ import annotations

import json
import math
from typing import Any

from pgrpo_cli.data.row_problem import RowProblem, shown, storable

MAX_DEPTH = 100
"""Lists and objects inside each other."""
MAX_DIGITS = 300
"""Of a whole number: so every one of them has a float."""


def parse_line(line: bytes) -> dict[str, Any]:
    """The JSON object of one line. Raises RowProblem."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RowProblem(
            "not UTF-8", f"byte 0x{line[error.start]:02x} at column {error.start + 1}"
        ) from error
    return parse_object(text)


def parse_object(text: str) -> dict[str, Any]:
    """The JSON object that a text is. Raises RowProblem."""
    row = parse_value(text)
    if not isinstance(row, dict):
        raise RowProblem("not a JSON object", f"found {shown(row)}")
    return row


def parse_value(text: str) -> Any:
    """What a text says as JSON; NaN and infinities, which are no JSON, become null. Raises RowProblem."""
    try:
        value = json.loads(
            text,
            parse_constant=lambda constant: None,
            parse_float=_finite,
            parse_int=_whole,
            object_pairs_hook=_object,
        )
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno} of it"
        raise RowProblem("not JSON", f"{error.msg} at {place}") from error
    except RecursionError as error:
        raise _too_deep() from error
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise _too_deep()
    # Only an escape can write half a surrogate pair.
    if "\\ud" in text or "\\uD" in text:
        storable(json.dumps(value, ensure_ascii=False), "row")
    return value


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise RowProblem("number too long", f"it has {len(text):,} digits; at most {MAX_DIGITS} are read")
    return int(text)


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        name = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise RowProblem("key twice in an object", f"{shown(name)} occurs twice")
    return found


def _too_deep() -> RowProblem:
    return RowProblem("nested too deep", f"more than {MAX_DEPTH} lists and objects inside each other")


def _depth(value: Any) -> int:
    """How many lists and objects are inside each other, without recursion."""
    depth, inside = 0, [value]
    while inside := [
        item
        for outer in inside
        if isinstance(outer, dict | list)
        for item in (outer.values() if isinstance(outer, dict) else outer)
    ]:
        depth += 1
    return depth
