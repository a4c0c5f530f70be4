"""Turns the errors of pydantic into messages about a recipe."""

from __future__ import annotations

import re
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from .base import MOST_WHOLE
from .messages import KeyPath, choices, did_you_mean
from .shape import annotation_at, describe, literals, section_of, unwrap, value_at, variants
from .yaml_lines import Document

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
_TYPES = ("int_type", "float_type", "string_type", "bool_type", "dict_type", "model_type", "tuple_type")


class Explainer:
    """Words the problems of `data`, which stands for `document` with its keys put right."""

    def __init__(self, schema: Any, data: Any, document: Document) -> None:
        self.schema = schema
        self.data = data
        self.document = document

    def text(self, error: ErrorDetails, path: KeyPath, written: KeyPath) -> str:
        """The value at `path` and the rule that it breaks; `written` is the path in the document."""
        if error["type"] == "missing":
            field = self._field(path)
            return (
                f"missing; required: {field.description}"
                if field and field.description
                else "missing; required"
            )
        value = value_at(self.data, path)
        return f"found {self.document.found(written, value)}; {self._rule(error, value, path, written)}"

    def _rule(self, error: ErrorDetails, value: Any, path: KeyPath, written: KeyPath) -> str:
        kind, annotation = error["type"], annotation_at(self.schema, self.data, path)
        context: dict[str, Any] = error.get("ctx", {})
        if kind in _PLAIN:
            return _PLAIN[kind].format(**context)
        if kind in _BOUNDS:
            name, words = _BOUNDS[kind]
            return words.format(context[name])
        if kind == "literal_error":
            allowed = literals(annotation)
            hint = did_you_mean(value, allowed) + self._quoting(value, written, allowed)
            return f"must be {choices(allowed)}{hint or self._absent(value, path)}"
        if kind in _TYPES:
            return f"must be {describe(annotation)}{self._remedy(annotation, value, path, written)}"
        if kind == "string_pattern_mismatch":
            return f"must match {context['pattern']}{_slug(value, context['pattern'])}"
        if kind == "value_error":
            return str(context["error"])
        return error["msg"][:1].lower() + error["msg"][1:]

    def _remedy(self, annotation: Any, value: Any, path: KeyPath, written: KeyPath) -> str:
        """What to write instead, if the value shows what was meant."""
        wanted = unwrap(annotation)
        if isinstance(value, str) and value in variants(annotation):
            return f"; write {{type: {value}}}"
        if wanted is str:
            return self._quoting(value, written) or self._absent(value, path)
        if wanted is int and isinstance(value, float) and value.is_integer() and abs(value) <= MOST_WHOLE:
            return f"; write {int(value)}"
        if wanted in (int, float) and isinstance(value, str) and not self.document.origin(written).raw:
            return "; remove the quotes"
        return self._absent(value, path)

    def _absent(self, value: Any, path: KeyPath) -> str:
        if value is not None:
            return ""
        field = self._field(path)
        optional = field is not None and not field.is_required()
        return "; remove the line to get the default, or give it a value" if optional else "; give it a value"

    def _quoting(self, value: Any, written: KeyPath, allowed: list[str] | None = None) -> str:
        """A hint for text that YAML takes for something else, such as no, on or 1e5."""
        raw = self.document.origin(written).raw
        if (
            not isinstance(value, (bool, int, float))
            or not raw
            or (allowed is not None and raw not in allowed)
        ):
            return ""
        kind = "a boolean" if isinstance(value, bool) else "a number"
        return f"; YAML takes {raw} for {kind}: write '{raw}' with the quotes"

    def _field(self, path: KeyPath) -> FieldInfo | None:
        section = section_of(annotation_at(self.schema, self.data, path[:-1]), value_at(self.data, path[:-1]))
        return section.model_fields.get(str(path[-1])) if section else None


def _slug(value: str, pattern: str) -> str:
    near = re.sub(r"[^A-Za-z0-9_-]+", "-", value).strip("-_")
    return f"; try {near!r}" if re.search(pattern, near) else ""
