"""Where prompts come from: a reader for every `type` of `data.source`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pgrpo_cli.data.records import SourceData
from pgrpo_cli.registry import Registry

from .context import ReadContext
from .goodreads import read_goodreads
from .jsonl import read_jsonl
from .movielens import read_movielens
from .personas import read_personas

Reader = Callable[[Any, ReadContext], SourceData]
"""Takes the section `data.source`."""

READERS: dict[str, Reader] = {
    "personas": read_personas,
    "jsonl": read_jsonl,
    "movielens": read_movielens,
    "goodreads": read_goodreads,
}
SOURCES: Registry[Reader] = Registry("data source")
for _name, _reader in READERS.items():
    SOURCES.add(_name, _reader)
