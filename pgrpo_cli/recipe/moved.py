"""Keys of older recipes that stand elsewhere now: they are moved before anything is checked."""

from __future__ import annotations

from .yaml_lines import Document

_OLD, _SECTION = ("data", "source", "system_template"), ("data", "conditioning")
_TYPES = ("jsonl", "csv", "parquet", "datasets")


def move_old_keys(document: Document) -> None:
    """Make `data.conditioning` of `data.source.system_template`; what is said of it keeps its line.

    Where the recipe has both, it is left in its old place, where there is no such key.
    """
    data = document.data.get("data") if isinstance(document.data, dict) else None
    if not isinstance(data, dict) or not isinstance(source := data.get("source"), dict):
        return
    if source.get("type") not in _TYPES or _OLD[-1] not in source:
        return
    if source[_OLD[-1]] is not None:
        if _SECTION[-1] in data:
            return
        data[_SECTION[-1]] = {"type": "prompt", "template": source[_OLD[-1]]}
        origin = document.origin(_OLD)
        document.origins[_SECTION] = document.origins[*_SECTION, "template"] = origin
    data["source"] = {key: value for key, value in source.items() if key != _OLD[-1]}
