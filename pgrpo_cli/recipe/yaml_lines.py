"""Reads YAML and records the line of every value.

PyYAML's safe loader composes nodes; this module turns them into plain data beside a table of origins, and
collects what it can report without stopping. Differences from YAML 1.1 as PyYAML reads it: `1e-3` is a
number; `1:30`, `010` and `2024-01-01` are text; duplicate keys, merge keys and further tags are problems.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from pgrpo_cli.names import composed

from .messages import InvalidRecipe, KeyPath, Problem, plain, show

MAX_NODES = 20_000
"""Values in one document, aliases expanded."""
MAX_DEPTH = 40
_MAX_DIGITS = 40

_TAG = "tag:yaml.org,2002:"
_BOOLEANS = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}
RESOLVERS = (
    (_TAG + "bool", re.compile(r"^(?i:yes|no|on|off|true|false)$"), list("yYnNtTfFoO")),
    (
        _TAG + "int",
        re.compile(r"^(?:[-+]?(?:0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+|[-+]?0b[01_]+)$"),
        list("-+0123456789"),
    ),
    (
        _TAG + "float",
        re.compile(
            r"^(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        list("-+0123456789."),
    ),
    (_TAG + "null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
)
"""The unquoted texts that are no text: the tag of what they are, their pattern and their first characters."""


class _Loader(yaml.SafeLoader):
    """The safe loader with fewer texts that become other types, and a limit on the depth."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                problem=f"nested deeper than {MAX_DEPTH} levels", problem_mark=mark
            )
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


for _tag, _pattern, _first in RESOLVERS:
    _Loader.add_implicit_resolver(_tag, _pattern, _first)


@dataclass(frozen=True)
class Origin:
    """Where a value was written, and its text as it stands there if it is an unquoted scalar."""

    where: str
    raw: str | None = None


@dataclass
class Document:
    """Plain data, the origin of every path in it, and the problems met on the way.

    `broken` holds paths with a problem of their own: whatever else is wrong there follows from it. `notes`
    says what of the file does not count.
    """

    label: str
    data: Any
    origins: dict[KeyPath, Origin] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    broken: set[KeyPath] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def origin(self, path: KeyPath) -> Origin:
        """The origin of `path`, or of the nearest enclosing value that was written down."""
        while path not in self.origins and path:
            path = path[:-1]
        return self.origins.get(path, Origin(f"{self.label}:1"))

    def at(self, path: KeyPath) -> Any:
        """The value at `path`, which exists."""
        value = self.data
        for key in path:
            value = value[key]
        return value

    def rename(self, section: KeyPath, key: str, name: str) -> None:
        """Give a key of the mapping at `section` another name; what is below it keeps its origins."""
        values = self.at(section)
        values[name] = values.pop(key)
        old, new = (*section, key), (*section, name)
        below = [path for path in self.origins if path[: len(old)] == old]
        self.origins.update({(*new, *path[len(old) :]): self.origins.pop(path) for path in below})
        self.broken = {(*new, *path[len(old) :]) if path[: len(old)] == old else path for path in self.broken}

    def found(self, path: KeyPath, value: Any) -> str:
        """`value` as the reader wrote it at `path`."""
        origin = self.origins.get(path)
        return show(value) if origin is None or not origin.raw else plain(origin.raw)


def parse(text: str, label: str, where: Callable[[int], str]) -> Document:
    """Read one YAML document. `where` names a line (from 1) in messages.

    Raises InvalidRecipe if reading cannot continue; everything else is collected in `problems`.
    """
    # PyYAML counts lines that no editor shows: it takes U+0085, U+2028 and U+2029 for line breaks, too.
    ends = [end.end() - 1 for end in re.finditer(r"\r\n?|\n", text)]

    def line_of(index: int) -> int:
        return bisect_left(ends, min(index, len(text) - 1)) + 1

    try:
        node = yaml.compose(text, Loader=_Loader)
        document = Document(label, None)
        if node is not None:
            document.data = _Builder(document, where, line_of).build(node, (), frozenset())
        return document
    except yaml.reader.ReaderError as error:
        raise _unreadable(
            label,
            where(line_of(error.position)),
            f"found the character U+{int(error.character):04X}; not text",
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = where(line_of(mark.index if mark else len(text)))
        raise _unreadable(label, place, _syntax(error)) from error
    except ValueError as error:
        if isinstance(error, InvalidRecipe):
            raise
        # PyYAML lets chr() fail on escapes beyond Unicode.
        raise _unreadable(
            label, where(1), f"an escape in a quoted string is no character ({error})"
        ) from error


def _unreadable(label: str, where: str, text: str) -> InvalidRecipe:
    return InvalidRecipe(label, [Problem(where, (), text)])


def _syntax(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "cannot be parsed"
    hint = ""
    if "'\\t'" in problem:
        hint = "; indent with spaces, not tabs"
    elif "mapping values are not allowed" in problem:
        hint = "; quote text that has a colon in it, and check the indentation"
    elif "cannot start any token" in problem:
        hint = "; quote text that begins with this character"
    elif "another document" in problem:
        return "not valid YAML: found a second document; a recipe is one document: remove the line ---"
    context = f" {error.context}" if error.context else ""
    return f"not valid YAML: {problem}{context}{hint}"


class _Builder:
    """Nodes to plain data, within bounds on their number and depth."""

    def __init__(
        self, document: Document, where: Callable[[int], str], line_of: Callable[[int], int]
    ) -> None:
        self.document = document
        self.where = where
        self.line_of = line_of
        self.nodes = 0

    def build(self, node: yaml.Node, path: KeyPath, above: frozenset[int]) -> Any:
        """The data of `node` at `path`; `above` are the nodes that contain it."""
        self.nodes += 1
        if self.nodes > MAX_NODES:
            self._stop(node, f"more than {MAX_NODES} values once aliases are expanded")
        if len(above) > MAX_DEPTH:
            self._stop(node, f"nested deeper than {MAX_DEPTH} levels")
        if id(node) in above:
            self._stop(node, "an alias stands inside the value that it names")
        inside = above | {id(node)}
        self.document.origins.setdefault(path, Origin(self._line(node)))
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            found = {key: self.build(value, (*path, key), inside) for key, value in self._items(node, path)}
            if node.value and not found:
                self.document.broken.add(path)
            return found
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.build(item, (*path, index), inside) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        return self._refuse(
            node, path, f"YAML tag {node.tag.removeprefix(_TAG)!r} is not supported; remove it"
        )

    def _items(self, node: yaml.MappingNode, path: KeyPath) -> Iterator[tuple[str, yaml.Node]]:
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            line = self.line_of(key_node.start_mark.index)
            if (
                not isinstance(key_node, yaml.ScalarNode)
                or key_node.tag != _TAG + "str"
                or not _encodable(key)
            ):
                found = show(key) if isinstance(key_node, yaml.ScalarNode) else "that is a list or mapping"
                self._report(
                    line, path, f"found the key {found}; a key must be text; quote it if it is meant"
                )
            elif key == "<<" and key_node.style is None:
                self._report(line, path, "found the merge key <<; it is not supported; write the keys out")
            elif first := lines.get(composed(key)):
                # An override has no lines.
                told = f"it is set on line {first} already; " if self.where(0) != self.where(1) else ""
                self._report(line, (*path, key), f"found twice; {told}remove one")
            else:
                lines[composed(key)] = line
                self.document.origins[(*path, key)] = Origin(self.where(line))
                yield key, value_node

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        plain = node.style is None
        self.document.origins[path] = Origin(self._line(node), node.value if plain else None)
        kind = node.tag.removeprefix(_TAG)
        text = node.value
        try:
            if kind == "null":
                return None
            if kind == "bool":
                return _BOOLEANS[text.lower()]
            if kind in ("int", "float") and len(text) > _MAX_DIGITS:
                return self._refuse(node, path, f"a number of {len(text)} characters; use fewer digits")
            if kind == "int":
                return int(text.replace("_", ""), 0)
            if kind == "float":
                number = text.replace("_", "").lower()
                return float(number.replace(".inf", "inf").replace(".nan", "nan"))
        except (KeyError, ValueError):
            return self._refuse(node, path, f"found {show(text)}; not a value of the YAML tag {kind!r}")
        if kind != "str":
            return self._refuse(node, path, f"YAML tag {kind!r} is not supported; remove it")
        if not _encodable(text):
            return self._refuse(
                node, path, "found text with half of a surrogate pair; write the whole character"
            )
        return text

    def _line(self, node: yaml.Node) -> str:
        return self.where(self.line_of(node.start_mark.index))

    def _report(self, line: int, path: KeyPath, text: str) -> None:
        self.document.problems.append(Problem(self.where(line), path, text))

    def _refuse(self, node: yaml.Node, path: KeyPath, text: str) -> None:
        self._report(self.line_of(node.start_mark.index), path, text)
        self.document.broken.add(path)

    def _stop(self, node: yaml.Node, text: str) -> None:
        raise _unreadable(self.document.label, self._line(node), text)


def _encodable(text: object) -> bool:
    return isinstance(text, str) and not any("\ud800" <= character <= "\udfff" for character in text)
