"""JSON of a run's files, which a stranger may have written: finite numbers, no deeper than can be read."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any


def read_json(path: Path) -> Any:
    """The JSON in a file. Raises OSError, and ValueError if it is not JSON."""
    return parse_json(path.read_bytes())


def parse_json(content: str | bytes) -> Any:
    """Raises ValueError for what is no JSON."""
    try:
        value = json.loads(content, parse_constant=_refuse_constant, parse_float=_finite)
        if _HALF.search(content if isinstance(content, str) else content.decode(errors="replace")):
            # Half of a pair of surrogates is no character: nothing that holds it could be written or shown.
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


_HALF = re.compile(r"\\ud[89a-f]", re.IGNORECASE)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no finite number")
    return number
