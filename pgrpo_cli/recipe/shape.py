"""What the schema allows at a path: the types of pydantic models, walked beside the data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

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


def members(annotation: Any) -> tuple[Any, ...]:
    """The types of a union; another annotation is a union of one."""
    annotation = unwrap(annotation)
    return tuple(map(unwrap, get_args(annotation))) if _is_union(annotation) else (annotation,)


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
    """The type of the entries of a list or mapping; Any where the annotation is neither."""
    annotation = unwrap(annotation)
    for member in get_args(annotation) if _is_union(annotation) else (annotation,):
        if get_origin(member) is tuple:
            return get_args(member)[0]
        if get_origin(member) is dict:
            return get_args(member)[1]
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


@dataclass(frozen=True)
class Place:
    """Where an error of pydantic points: the path in the data, and what the schema allows there.

    `field` is the field with that name, None for an entry of a list. `types` are the sections of the union
    that the place is a member of.
    """

    path: KeyPath
    annotation: Any
    field: FieldInfo | None
    types: dict[str, type[Section]]


def place_of(annotation: Any, loc: tuple[str | int, ...]) -> Place:
    """The place of pydantic's `loc`, which also holds the names of union members."""
    path: list[str | int] = []
    field: FieldInfo | None = None
    types: dict[str, type[Section]] = {}
    in_branch = False
    for key in loc:
        allowed = unwrap(annotation)
        if tagged := variants(allowed):
            annotation, types = tagged.get(str(key), Any), tagged
        elif _is_union(allowed) and not in_branch:
            # Text or a list of text: the name of the member that pydantic tried.
            in_branch = True
        else:
            path.append(key)
            field = allowed.model_fields.get(str(key)) if is_section(allowed) else None
            annotation = field.annotation if field else item_of(allowed)
            types, in_branch = {}, False
    return Place(tuple(path), annotation, field, types)


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
