"""Keys that contain paths: values that cannot be paths are refused when the recipe is read.

What depends on the machine (`~user`, `$NAME`) is refused on request only: runs are read elsewhere, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import AfterValidator

from pgrpo_cli.errors import PathError
from pgrpo_cli.paths import expanded, refuse_characters, shown

from .base import Section
from .messages import KeyPath
from .violation import Violation


def _possible(text: str) -> str:
    try:
        refuse_characters(text, "")
    except PathError as error:
        raise ValueError(_reason(error, text)) from error
    return text


IS_PATH = AfterValidator(_possible)
PathText = Annotated[str, IS_PATH]
"""A path or pattern, relative to the recipe's folder."""


def unusable_paths(section: Section, start: Path, path: KeyPath = ()) -> Iterator[Violation]:
    """The paths below `section`, relative ones from `start`, that name nothing on this machine."""
    for name, field in type(section).model_fields.items():
        value, place = section.__dict__.get(name), (*path, name)
        if isinstance(value, Section):
            yield from unusable_paths(value, start, place)
        elif isinstance(value, tuple):
            for index, entry in enumerate(value):
                if isinstance(entry, Section):
                    yield from unusable_paths(entry, start, (*place, index))
                elif isinstance(entry, str) and _is_path(field.metadata, field.annotation):
                    yield from _unusable(entry, start, (*place, index))
        elif isinstance(value, str) and _is_path(field.metadata, field.annotation):
            yield from _unusable(value, start, place)


def _unusable(text: str, start: Path, place: KeyPath) -> Iterator[Violation]:
    try:
        expanded(text, "", start)
    except PathError as error:
        yield Violation(place, text, _reason(error, text))


def _is_path(metadata: list[Any], annotation: Any) -> bool:
    parts = (annotation, *get_args(annotation))
    return IS_PATH in metadata or any(IS_PATH in getattr(part, "__metadata__", ()) for part in parts)


def _reason(error: PathError, text: str) -> str:
    reason = error.message.removeprefix(": ").removeprefix(f"{shown(text)}: ")
    remedy = (error.remedy or "").rstrip(".")
    return f"{reason}; {remedy[:1].lower()}{remedy[1:]}"
