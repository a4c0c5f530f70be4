"""The schema for editors (JSON Schema) and for readers (Markdown)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from .base import Section
from .schema import Recipe
from .shape import describe, is_section, item_of, unwrap, variants

_BOUNDS = {"gt": "> {:.12g}", "ge": "≥ {:.12g}", "lt": "< {:.12g}", "le": "≤ {:.12g}"}

_INTRODUCTION = """# Recipe reference

<!-- Written by `make docs` from the schema in pgrpo_cli/recipe/: edit the descriptions there. -->

A recipe is a YAML file. Keys that are left out take the default; unknown keys are refused.
`pgrpo validate RECIPE` reports every problem with its line, `pgrpo validate --resolved RECIPE` prints all
values, and any key can be set from the command line: `--set train.steps=40`, `--set rewards.0.weight=2`,
`--set 'train.optimizer={type: adamw_8bit}'`. Another `type`, as in
`--set model.quantization.type=none`, leaves out the keys that only other types have, and says so.

For completion and checks while typing, write `pgrpo schema > recipe.schema.json` and make
`# yaml-language-server: $schema=recipe.schema.json` the first line of the recipe.

`1e-4` is a number here, which it is not in YAML 1.1; unquoted `yes`, `no`, `on` and `off` are booleans, as
they are there. A whole number has no decimal point and no exponent, and a size of 2147483647 at most; any
other number is 0 or of a size between 1e-15 and 1e18.

In a path `~`, `~user`, `$NAME` and `${NAME}` are expanded, here and in the options of all commands; in an id
of a hub nothing is.
"""


def json_schema_text() -> str:
    """The recipe's JSON Schema (draft 2020-12), indented."""
    schema = Recipe.model_json_schema()
    for section in schema["$defs"].values():
        # `type`, which selects a section, has a default in Python but must be written in YAML.
        if "const" in section["properties"].get("type", {}):
            section["required"] = ["type", *section.get("required", [])]
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps({**head, **schema, "title": "pgrpo recipe"}, indent=2)


def markdown_reference() -> str:
    """docs/recipes.md: every key with its values, default and description; one table per section."""
    lines = [_INTRODUCTION, *_table(Recipe), ""]
    for name, field in Recipe.model_fields.items():
        lines += _part(field.annotation, name, level=2)
    return "\n".join(lines).rstrip() + "\n"


def _part(annotation: Any, path: str, level: int) -> Iterator[str]:
    """Heading, text and table of a section or of each section of a union, then of the sections below."""
    annotation = unwrap(annotation)
    entry = unwrap(item_of(annotation))
    if variants(entry):
        annotation, path = entry, f"{path}.N"
    sections = {"": annotation} if is_section(annotation) else variants(annotation)
    for tag, section in sections.items():
        yield f"{'#' * level} `{path}`" + (f" with `type: {tag}`" if tag else "")
        yield ""
        yield " ".join((section.__doc__ or "").split())
        yield ""
        yield from _table(section, without_type=bool(tag))
        yield ""
        for name, field in section.model_fields.items():
            yield from _part(field.annotation, f"{path}.{name}", level + 1)


def _table(section: type[Section], without_type: bool = False) -> Iterator[str]:
    names = [name for name in section.model_fields if not (without_type and name == "type")]
    if not names:
        yield "No keys of its own."
        return
    yield "| key | values | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for name in names:
        field = section.model_fields[name]
        cells = (f"`{name}`", _values(field), _default(field), field.description or "")
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _values(field: FieldInfo) -> str:
    annotation = unwrap(field.annotation)
    tags = variants(annotation) or variants(item_of(annotation))
    if tags:
        names = ", ".join(f"`{tag}`" for tag in tags)
        return f"a section of type {names}" if variants(annotation) else f"a list of sections of type {names}"
    if is_section(annotation):
        return "a section, see below"
    text = describe(annotation).replace("'", "`")
    bounds = [
        words.format(getattr(bound, name))
        for bound in field.metadata
        for name, words in _BOUNDS.items()
        if getattr(bound, name, None) is not None
    ]
    text = ", ".join([text, *bounds])
    return f"{text}, or null" if annotation is not field.annotation else text


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel):
        return f"`type: {value.type}`" if hasattr(value, "type") else "see below"
    return f"`{json.dumps(value)}`"
