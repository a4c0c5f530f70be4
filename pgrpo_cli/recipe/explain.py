"""Pydantic's errors in the words of a recipe."""

from __future__ import annotations

from typing import Any

from pydantic_core import ErrorDetails

from .messages import KeyPath, choices, did_you_mean
from .shape import annotation_at, describe, section_of, unwrap, variants
from .yaml_lines import Document

_BOUNDS = {
    "greater_than": ("gt", "must be greater than {}"),
    "greater_than_equal": ("ge", "must be {} or more"),
    "less_than": ("lt", "must be less than {}"),
    "less_than_equal": ("le", "must be {} or less"),
}
_TYPES = ("int_type", "float_type", "string_type", "bool_type", "dict_type", "model_type", "tuple_type")
_BOUNDLESS_NUMBER = "must be a finite number"


def explain(
    error: ErrorDetails, schema: Any, data: Any, path: KeyPath, written: KeyPath, document: Document
) -> str:
    """The text of a problem at `path` of `data`, which the document has at `written`."""
    annotation = annotation_at(schema, data, path)
    if error["type"] == "missing":
        return f"missing; {_purpose(schema, data, path)}"
    value = _at(data, path)
    return f"found {document.found(written, value)}; {_rule(error, annotation, value, document, written)}"


def _rule(error: ErrorDetails, annotation: Any, value: Any, document: Document, written: KeyPath) -> str:
    kind = error["type"]
    context: dict[str, Any] = error.get("ctx", {})
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return words.format(f"{context[name]:g}")
    if kind == "literal_error":
        allowed = [str(choice) for choice in getattr(unwrap(annotation), "__args__", ())]
        return f"must be {choices(allowed)}{did_you_mean(value, allowed)}{_quoting(value, allowed, document, written)}"
    if kind in _TYPES:
        return f"must be {describe(annotation)}{_remedy(annotation, value, document, written)}"
    if kind == "finite_number":
        return _BOUNDLESS_NUMBER
    if kind in ("too_short", "string_too_short"):
        return "must not be empty"
    if kind == "string_pattern_mismatch":
        return f"must match {context['pattern']}"
    if kind == "value_error":
        return str(context["error"])
    return error["msg"][:1].lower() + error["msg"][1:]


def _remedy(annotation: Any, value: Any, document: Document, written: KeyPath) -> str:
    """What to write instead, where the value shows what was meant."""
    wanted = unwrap(annotation)
    if value is None:
        return "; remove the line to get the default, or give it a value"
    known = variants(annotation)
    if known and isinstance(value, str):
        return f"; write {{type: {value}}}" if value in known else f" with the key 'type', {choices(known)}"
    if wanted is str and isinstance(value, (bool, int, float)):
        return _quoting(value, None, document, written)
    if wanted in (int, float) and isinstance(value, str) and not document.origin(written).raw:
        return "; remove the quotes"
    return ""


def _quoting(value: Any, allowed: list[str] | None, document: Document, written: KeyPath) -> str:
    """A hint for text that YAML takes for something else, such as no, on or 1e5."""
    raw = document.origin(written).raw
    if isinstance(value, str) or not raw or (allowed is not None and raw not in allowed):
        return ""
    kind = "a boolean" if isinstance(value, bool) else "a number"
    return f"; YAML takes {raw} for {kind}: write '{raw}' with the quotes"


def _purpose(schema: Any, data: Any, path: KeyPath) -> str:
    parent = annotation_at(schema, data, path[:-1])
    section = section_of(parent, _at(data, path[:-1]))
    field = section.model_fields.get(str(path[-1])) if section else None
    return f"required: {field.description}" if field and field.description else "required"


def _at(data: Any, path: KeyPath) -> Any:
    for key in path:
        data = data[key]
    return data
