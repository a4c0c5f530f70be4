"""Violations of rules between keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .messages import KeyPath, show


@dataclass(frozen=True)
class Violation:
    """A broken rule at `path`: the value found there, and the rule with its remedy."""

    path: KeyPath
    found: Any
    rule: str

    def __str__(self) -> str:
        return f"found {show(self.found)}; {self.rule}"
