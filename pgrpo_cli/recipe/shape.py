"""What the schema allows at a path: the types of pydantic models, walked beside the data."""

from __future__ import annotations

from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from .base import Section
from .messages import KeyPath

_WORDS: dict[Any, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_PLURALS = {
    "text": "texts",
    "a whole number": "whole numbers",
    "a number": "numbers",
    "a mapping with the key 'type'": "mappings, each with the key 'type'",
}


def unwrap(annotation: Any) -> Any:
    """`annotation` without `Annotated` and without `| None`."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if _is_union(annotation):
        members = [member for member in get_args(annotation) if member is not NoneType]
        if len(members) == 1:
            return unwrap(members[0])
    return annotation


def is_section(annotation: Any) -> bool:
    """Whether the type is one recipe section."""
    return isinstance(annotation, type) and issubclass(annotation, Section)


def variants(annotation: Any) -> dict[str, type[Section]]:
    """The sections of a union by their `type`; empty for any other annotation."""
    annotation = unwrap(annotation)
    members = get_args(annotation) if _is_union(annotation) else ()
    if not members or not all(is_section(member) for member in members):
        return {}
    return {tag: member for member in members for tag in get_args(member.model_fields["type"].annotation)}


def section_of(annotation: Any, value: Any) -> type[Section] | None:
    """The section that `value` is read as, chosen by its `type` in a union; None where it is no section."""
    annotation = unwrap(annotation)
    if is_section(annotation):
        return annotation  # type: ignore[no-any-return]
    tag = value.get("type") if isinstance(value, dict) else None
    return variants(annotation).get(tag) if isinstance(tag, str) else None


def item_of(annotation: Any) -> Any:
    """The type of a list's entries; Any where the annotation is no list."""
    annotation = unwrap(annotation)
    for member in get_args(annotation) if _is_union(annotation) else (annotation,):
        if get_origin(member) is tuple:
            return get_args(member)[0]
    return Any


def annotation_at(annotation: Any, data: Any, path: KeyPath) -> Any:
    """The type of `path` in the schema; Any if the schema does not have it."""
    for key in path:
        if isinstance(key, int):
            annotation = item_of(annotation)
            data = data[key] if isinstance(data, list) and key < len(data) else None
        else:
            section = section_of(annotation, data)
            if section is None or key not in section.model_fields:
                return Any
            annotation = section.model_fields[key].annotation
            data = data.get(key) if isinstance(data, dict) else None
    return annotation


def data_path(annotation: Any, loc: tuple[str | int, ...]) -> tuple[KeyPath, int | None]:
    """Pydantic's location as a path in the data, without the names of union members that pydantic puts in.

    Also the depth at which an untagged union (text or list of text) was entered, or None.
    """
    path: list[str | int] = []
    entered: int | None = None
    for key in loc:
        annotation = unwrap(annotation)
        tagged = variants(annotation)
        if tagged:
            annotation = tagged.get(str(key), Any)
        elif _is_union(annotation):
            entered = len(path)
            annotation = Any
        else:
            path.append(key)
            if is_section(annotation) and key in annotation.model_fields:
                annotation = annotation.model_fields[key].annotation
            else:
                annotation = item_of(annotation)
    return tuple(path), entered


def leaves(annotation: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Dotted paths of every key that the schema knows outside of lists."""
    annotation = unwrap(annotation)
    for section in [annotation] if is_section(annotation) else variants(annotation).values():
        for name, field in section.model_fields.items():
            yield (*path, name)
            yield from leaves(field.annotation, (*path, name))


def literals(annotation: Any) -> list[str]:
    """The values of a Literal."""
    return [str(value) for value in get_args(unwrap(annotation))]


def value_at(data: Any, path: KeyPath) -> Any:
    """The value at `path`, which exists."""
    for key in path:
        data = data[key]
    return data


def describe(annotation: Any) -> str:
    """The values that the annotation takes, in words."""
    annotation = unwrap(annotation)
    if get_origin(annotation) is Literal:
        return " or ".join(repr(value) for value in get_args(annotation))
    if variants(annotation):
        return "a mapping with the key 'type'"
    if get_origin(annotation) is tuple:
        item = describe(item_of(annotation))
        return f"a list of {_PLURALS.get(item, item)}"
    if _is_union(annotation):
        return " or ".join(describe(member) for member in get_args(annotation) if member is not NoneType)
    if is_section(annotation) or get_origin(annotation) is dict:
        return "a mapping"
    return _WORDS.get(annotation, "any value")


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, UnionType)
