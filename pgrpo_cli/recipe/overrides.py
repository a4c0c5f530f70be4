"""`--set KEY=VALUE`: single keys of a recipe, set from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, get_args, get_origin

from .base import Section
from .messages import InvalidRecipe, KeyPath, Problem, dotted, plain
from .shape import annotation_at, members, section_of, variants
from .yaml_lines import Document, Origin, parse

_NULLS = ("", "~", "null")
_SHOWN = 200


def apply_overrides(document: Document, overrides: Sequence[str], schema: type[Section]) -> None:
    """Set every override in `document`, in order; the problems of those that cannot be set go into it too.

    A document that is no mapping is left alone: it is refused for that.
    """
    if not isinstance(document.data, dict):
        return
    for override in overrides:
        where = f"--set {plain(override, _SHOWN)}"
        key, equals, text = override.partition("=")
        names = key.strip().split(".")
        if not equals or not all(names):
            rule = "must be KEY=VALUE with a dotted KEY, such as train.steps=40 or rewards.0.weight=2"
            document.problems.append(Problem(where, (), rule))
            continue
        try:
            _set(document, names, text, where, schema)
        except InvalidRecipe as error:
            document.problems.extend(error.problems)


def _set(document: Document, names: list[str], text: str, where: str, schema: type[Section]) -> None:
    path, parent = _parent(document, names, where, schema)
    value = _value(document, path, text, where, schema)
    if path[-1] == "type" and isinstance(parent, dict):
        _leave_other_types(document, path[:-1], parent, value.data, where, schema)
    _put(parent, path[-1], value.data)
    # The file's values at and below this path are replaced, so their line numbers are dropped too.
    for known in [known for known in document.origins if known[: len(path)] == path]:
        del document.origins[known]
    document.broken = {known for known in document.broken if known[: len(path)] != path}
    document.broken.update((*path, *below) for below in value.broken)
    document.problems.extend(
        Problem(where, (*path, *problem.path), problem.text) for problem in value.problems
    )
    document.origins[path] = Origin(where)
    for below, origin in value.origins.items():
        document.origins[(*path, *below)] = origin


def _leave_other_types(
    document: Document, path: KeyPath, section: dict[str, Any], tag: Any, where: str, schema: type[Section]
) -> None:
    """Delete the keys of `section` that belong to other types and that the new type, `tag`, does not have."""
    known = variants(annotation_at(schema, document.data, path))
    if not isinstance(tag, str) or tag not in known:
        return
    others = {key for other in known.values() for key in other.model_fields} - known[tag].model_fields.keys()
    gone = [key for key in section if key in others]
    for key in gone:
        del section[key]
    if gone:
        names = ", ".join(dotted((*path, key)) for key in gone)
        verb, ending = ("do", "s") if len(gone) > 1 else ("does", "")
        place = document.origin((*path, gone[0])).where
        document.notes.append(f"{where}: {names} ({place}) {verb} not count: {tag!r} has no such key{ending}")


def _parent(document: Document, names: list[str], where: str, schema: type[Section]) -> tuple[KeyPath, Any]:
    """The path of the key to set, with list indices as numbers, and the mapping or list that holds it.

    Mappings and lists on the way that do not exist yet are made.
    """
    path: KeyPath = ()
    container = document.data
    for name, next_name in pairwise([*names, None]):
        key = _key(container, str(name), path, where)
        path = (*path, key)
        if next_name is None:
            break
        if _get(container, key) is None:
            _put(container, key, [] if next_name.isdecimal() else _begun(document, path, next_name, schema))
            document.origins[path] = Origin(where)
        container = _get(container, key)
    return path, container


def _begun(document: Document, path: KeyPath, key: str, schema: type[Section]) -> dict[str, Any]:
    """What a section that is not there yet holds: the `type` of its default, if `key` is a key of that."""
    above = section_of(annotation_at(schema, document.data, path[:-1]), document.at(path[:-1]))
    field = above.model_fields.get(str(path[-1])) if above else None
    default: Any = field.get_default(call_default_factory=True, validated_data={}) if field else None
    tag = getattr(default, "type", None)
    return {"type": tag} if tag and key != "type" and key in type(default).model_fields else {}


def _get(container: Any, key: Any) -> Any:
    """The value under `key`, None if there is none yet."""
    if isinstance(container, list):
        return container[key] if key < len(container) else None
    return container.get(key)


def _put(container: Any, key: Any, value: Any) -> None:
    """Set `key`, which in a list may be one past the end."""
    if isinstance(container, list) and key == len(container):
        container.append(value)
    else:
        container[key] = value


def _key(container: Any, name: str, path: KeyPath, where: str) -> str | int:
    """`name` as a key of `container`; InvalidRecipe if it cannot be one."""
    if isinstance(container, dict):
        return name
    if not isinstance(container, list):
        raise _refusal(where, path, "is a single value and has no keys; set it as a whole")
    if not name.isdecimal() or len(name) > 9 or int(name) > len(container):
        entries = f"0 to {len(container) - 1}" if container else "none yet"
        rule = f"is a list; name an entry by its number ({entries}; {len(container)} adds one)"
        raise _refusal(where, path, f"{rule}, such as {dotted((*path, 0))}")
    return int(name)


def _value(document: Document, path: KeyPath, text: str, where: str, schema: type[Section]) -> Document:
    """The override's value. A key that holds text takes it as it stands, so that it needs no quotes."""
    annotation = annotation_at(schema, document.data, path)
    if _is_text(annotation, text):
        absent = annotation is not str and text in _NULLS
        return Document(where, None if absent else text, {(): Origin(where)})
    try:
        value = parse(text, where, lambda _: where)
    except InvalidRecipe as error:
        problems = [Problem(where, path, problem.text) for problem in error.problems]
        raise InvalidRecipe(where, problems) from error
    if isinstance(value.data, (dict, list)) and text.strip()[:1] not in ("{", "["):
        # `Answer: shortly` is a mapping to YAML; on a command line it is text.
        return Document(where, text, {(): Origin(where, text)})
    return value


def _is_text(annotation: Any, text: str) -> bool:
    """Whether the key takes what was typed as it stands; it may also be text in quotes, or a list."""
    kinds = members(annotation)
    if get_origin(kinds[0]) is Literal:
        return text in get_args(kinds[0])
    if str not in kinds or text[:1] in ("'", '"'):
        return False
    try:
        return len(kinds) == 1 or text[:1] != "[" or not isinstance(parse(text, "", str).data, list)
    except InvalidRecipe:
        return True


def _refusal(where: str, path: KeyPath, text: str) -> InvalidRecipe:
    return InvalidRecipe(where, [Problem(where, path, text)])
