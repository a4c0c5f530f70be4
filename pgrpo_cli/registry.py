"""A name-to-object table that refuses to be ambiguous."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to `name`, or None if nothing is close."""
    matches = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


class Registry(Generic[T]):
    """Names of one kind of plug-in. Looking up an unknown name says which names exist."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> T:
        """Register `entry`; a name taken by a different object is refused (ValueError)."""
        if self._entries.get(name, entry) is not entry:
            raise ValueError(f"{self.kind} {name!r} is registered already")
        self._entries[name] = entry
        return entry

    def __getitem__(self, name: str) -> T:
        if name in self._entries:
            return self._entries[name]
        near = nearest(name, self._entries)
        hint = f"; did you mean {near!r}?" if near else ""
        known = ", ".join(self)
        raise KeyError(f"unknown {self.kind} {name!r}{hint} (known: {known})")

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)
