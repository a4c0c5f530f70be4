"""Reports misspelled keys and `type`s, and corrects them in a copy, so that values below them are checked
too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pgrpo_cli.names import nearest

from .base import Section
from .messages import MOST_PROBLEMS, InvalidRecipe, KeyPath, Problem, choices, did_you_mean, dotted, plain
from .shape import item_of, leaves, section_of, unwrap, variants
from .yaml_lines import Document


class KeyCheck:
    """Walks a document beside the schema. Raises InvalidRecipe where there are too many problems to go on.

    `data` is the corrected copy. `written` maps a path in it to the path in the document. `broken` are paths
    of the copy that have a problem already.
    """

    def __init__(self, document: Document, schema: type[Section]) -> None:
        self.document = document
        self.schema = schema
        self.problems: list[Problem] = []
        self.broken: set[KeyPath] = set()
        self.written: dict[KeyPath, KeyPath] = {}
        self.data = self._value(schema, document.data, (), ())

    def _value(self, annotation: Any, value: Any, path: KeyPath, written: KeyPath) -> Any:
        self.written[path] = written
        if written in self.document.broken:
            self.broken.add(path)
        annotation = unwrap(annotation)
        if isinstance(value, list):
            item = item_of(annotation)
            return [
                self._value(item, entry, (*path, index), (*written, index))
                for index, entry in enumerate(value)
            ]
        if not isinstance(value, dict):
            return value
        known = variants(annotation)
        if known:
            value = self._with_known_type(known, value, path, written)
        section = section_of(annotation, value)
        return self._section(section, value, path, written, known) if section else value

    def _with_known_type(
        self, known: dict[str, type[Section]], value: dict[str, Any], path: KeyPath, written: KeyPath
    ) -> dict[str, Any]:
        """`value`, or a copy of it with the nearest known `type`."""
        tag = value.get("type")
        if (isinstance(tag, str) and tag in known) or (*written, "type") in self.document.broken:
            return value
        if "type" in value:
            found = self.document.found((*written, "type"), tag)
            suggestion = did_you_mean(tag, known)
            self._report((*written, "type"), f"found {found}; must be {choices(known)}{suggestion}")
            near = nearest(tag, known) if isinstance(tag, str) else None
        else:
            key = nearest("type", value)
            suggestion = f"; did you mean 'type' by {plain(key)!r}?" if key else ""
            self._report(written, f"missing the key 'type'; must be {choices(known)}{suggestion}")
            near = str(value[key]) if key and str(value[key]) in known else None
            if near and key:
                value = {name: entry for name, entry in value.items() if name != key}
        if near is None:
            self.broken.add(path)
            return value
        return {**value, "type": near}

    def _section(
        self,
        section: type[Section],
        value: dict[str, Any],
        path: KeyPath,
        written: KeyPath,
        known: dict[str, type[Section]],
    ) -> dict[str, Any]:
        fields = section.model_fields
        checked: dict[str, Any] = {}
        free = [name for name in fields if name not in value]
        for key, entry in value.items():
            name: str | None = key
            if key not in fields:
                name = None if _of_another_type(key, value, known) else nearest(key, free)
                suggestion = (
                    _of_another_type(key, value, known)
                    or did_you_mean(key, free)
                    or did_you_mean(key, fields)
                    or self._elsewhere(key, fields)
                )
                found = self.document.found((*written, key), entry)
                place = f" in {dotted(written)}" if written else ""
                self._report((*written, key), f"found {found}; there is no such key{place}{suggestion}")
                if name is None:
                    continue
                free.remove(name)
                if not isinstance(entry, (dict, list)):
                    self.broken.add((*path, name))
            assert name is not None
            checked[name] = self._value(fields[name].annotation, entry, (*path, name), (*written, key))
        return checked

    def _elsewhere(self, key: str, fields: Iterable[str]) -> str:
        """A hint about a key in the wrong place, else the keys that are allowed here."""
        places = dict.fromkeys(dotted(leaf) for leaf in leaves(self.schema) if leaf[-1] == key)
        if places and key != "type":
            return f"; did you mean {' or '.join(repr(place) for place in places)}?"
        return f"; the keys here are {', '.join(fields)}"

    def _report(self, written: KeyPath, text: str) -> None:
        self.problems.append(Problem(self.document.origin(written).where, written, text))
        # Finding the nearest known key for each takes time.
        if len(self.problems) > MOST_PROBLEMS:
            raise InvalidRecipe(self.document.label, [*self.document.problems, *self.problems])


def _of_another_type(key: str, value: dict[str, Any], known: dict[str, type[Section]]) -> str:
    """Says so where another `type` has the key: a type that was changed left it behind, or is the mistake."""
    types = [tag for tag, section in known.items() if key in section.model_fields]
    if not types:
        return ""
    return f" with type {value['type']!r}; {', '.join(map(repr, types))} {'have' if types[1:] else 'has'} it"
