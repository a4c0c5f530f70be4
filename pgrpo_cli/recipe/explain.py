"""Turns the errors of pydantic into messages about a recipe."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic_core import ErrorDetails

from pgrpo_cli.names import nearest

from .base import MOST_WHOLE, Section
from .messages import KeyPath, choices, did_you_mean, dotted, plain
from .schema import Recipe
from .shape import Place, describe, leaves, literals, members, place_of, unwrap, variants
from .yaml_lines import Document

KEY_ERRORS = ("extra_forbidden", "union_tag_invalid", "union_tag_not_found")
"""Errors of pydantic about the name of a key or the value of a `type`."""

_BOUNDS = {
    "greater_than": ("gt", "must be greater than {:.12g}"),
    "greater_than_equal": ("ge", "must be {:.12g} or more"),
    "less_than": ("lt", "must be less than {:.12g}"),
    "less_than_equal": ("le", "must be {:.12g} or less"),
}
_PLAIN = {
    "finite_number": "must be a finite number",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    "string_too_long": "must have {max_length} characters at most",
}
_BATCH_SIZE = dict.fromkeys(
    ("batch_size", "per_device_train_batch_size"), ("train.prompts_per_step", "train.tokens_per_micro_batch")
)
"""What other trainers have as the size of a batch."""
_TYPES = ("int_type", "float_type", "string_type", "bool_type", "dict_type", "model_type", "tuple_type")


def explain(error: ErrorDetails, place: Place, document: Document) -> str:
    """The value at `place` and the rule that it breaks."""
    if error["type"] == "missing":
        described = place.field is not None and place.field.description
        return f"missing; required: {described}" if described else "missing; required"
    value = error["input"]
    return f"found {document.found(place.path, value)}; {_rule(error, value, place, document)}"


def _rule(error: ErrorDetails, value: Any, place: Place, document: Document) -> str:
    kind = error["type"]
    context: dict[str, Any] = error.get("ctx", {})
    if kind in _PLAIN:
        return _PLAIN[kind].format(**context)
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return words.format(context[name])
    if kind == "literal_error":
        allowed = literals(place.annotation)
        hint = did_you_mean(value, allowed) + _quoting(value, place, document, allowed)
        return f"must be {choices(allowed)}{hint or _absent(value, place)}"
    if kind in _TYPES:
        return f"must be {describe(place.annotation)}{_remedy(value, place, document)}"
    if kind == "string_pattern_mismatch":
        return f"must match {context['pattern']}{_slug(value, context['pattern'])}"
    if kind == "value_error":
        return str(context["error"])
    return error["msg"][:1].lower() + error["msg"][1:]


def _remedy(value: Any, place: Place, document: Document) -> str:
    """What to write instead, if the value shows what was meant."""
    wanted = unwrap(place.annotation)
    if isinstance(value, str) and value in variants(wanted):
        return f"; write {{type: {value}}}"
    if wanted is str:
        return _quoting(value, place, document) or _absent(value, place)
    if wanted is int and isinstance(value, float) and value.is_integer() and abs(value) <= MOST_WHOLE:
        return f"; write {int(value)}"
    if isinstance(value, str) and not document.origin(place.path).raw:
        boolean = bool in members(wanted) and value.lower() in ("true", "false")
        if boolean or wanted in (int, float):
            return "; remove the quotes"
    return _absent(value, place)


def _absent(value: Any, place: Place) -> str:
    if value is not None:
        return ""
    optional = place.field is not None and not place.field.is_required()
    return "; leave it out to get the default, or give it a value" if optional else "; give it a value"


def _quoting(value: Any, place: Place, document: Document, allowed: list[str] | None = None) -> str:
    """A hint for text that YAML takes for something else, such as no, on or 1e5."""
    raw = document.origin(place.path).raw
    if not isinstance(value, (bool, int, float)) or not raw or (allowed is not None and raw not in allowed):
        return ""
    kind = "a boolean" if isinstance(value, bool) else "a number"
    return f"; YAML takes {raw} for {kind}: write '{raw}' with the quotes"


def _slug(value: str, pattern: str) -> str:
    near = re.sub(r"[^A-Za-z0-9_-]+", "-", value).strip("-_")
    return f"; try {near!r}" if re.search(pattern, near) else ""


@dataclass(frozen=True)
class KeyProblem:
    """An unknown key or `type` in the section at the path `section`, and what was probably meant.

    `renamed` is the key and the name that it should have, `tag` the value that `type` should have.
    """

    section: KeyPath
    path: KeyPath
    text: str
    renamed: tuple[str, str] | None = None
    tag: str | None = None


def explain_key(error: ErrorDetails, document: Document) -> KeyProblem:
    """The problem that one of KEY_ERRORS stands for."""
    if error["type"] == "extra_forbidden":
        return _unknown_key(str(error["loc"][-1]), place_of(Recipe, error["loc"][:-1]), document)
    place = place_of(Recipe, error["loc"])
    return _unknown_type(place.path, variants(place.annotation), error["input"], document)


def _unknown_key(key: str, place: Place, document: Document) -> KeyProblem:
    section, fields = place.path, unwrap(place.annotation).model_fields
    values = document.at(section)
    free = [name for name in fields if name not in values]
    owners = [repr(tag) for tag, other in place.types.items() if key in other.model_fields]
    if owners:
        # The `type` was changed and left the key behind, or is the mistake.
        name = None
        hint = f" with type {values['type']!r}; {', '.join(owners)} {'have' if owners[1:] else 'has'} it"
    else:
        name = nearest(key, free)
        hint = did_you_mean(key, free) or did_you_mean(key, fields) or _elsewhere(key, fields)
    where = f" in {dotted(section)}" if section else ""
    path = (*section, key)
    text = f"found {document.found(path, values[key])}; there is no such key{where}{hint}"
    return KeyProblem(section, path, text, renamed=(key, name) if name else None)


def _elsewhere(key: str, fields: Iterable[str]) -> str:
    """A hint about a key in the wrong place, else the keys that are allowed here."""
    places = _BATCH_SIZE.get(key) or dict.fromkeys(dotted(leaf) for leaf in leaves(Recipe) if leaf[-1] == key)
    if places and key != "type":
        return f"; did you mean {' or '.join(repr(place) for place in places)}?"
    return f"; the keys here are {', '.join(fields)}"


def _unknown_type(
    section: KeyPath, known: dict[str, type[Section]], values: dict[str, Any], document: Document
) -> KeyProblem:
    if "type" in values:
        path, tag = (*section, "type"), values["type"]
        text = f"found {document.found(path, tag)}; must be {choices(known)}{did_you_mean(tag, known)}"
        return KeyProblem(section, path, text, tag=nearest(tag, known) if isinstance(tag, str) else None)
    key = nearest("type", values)
    hint = f"; did you mean 'type' by {plain(key)!r}?" if key else ""
    text = f"missing the key 'type'; must be {choices(known)}{hint}"
    meant = key if key and str(values[key]) in known else None
    return KeyProblem(section, section, text, renamed=(meant, "type") if meant else None)
