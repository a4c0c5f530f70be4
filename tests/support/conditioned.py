"""Small data sets prepared under one `data.conditioning` or another."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.verbs.prepare import PrepareReport, prepare_data
from tests.support.tokenizer import byte_tokenizer


def write(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """The rows as rows.jsonl."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def recipe(
    conditioning: Mapping[str, Any] | None = None,
    *,
    source: Mapping[str, Any] | None = None,
    system_prompt: str | None = None,
    rewards: Iterable[Mapping[str, Any]] = ({"type": "length", "max": 5},),
    **data: Any,
) -> Recipe:
    """A recipe over rows.jsonl."""
    rows = {"type": "jsonl", "path": "rows.jsonl", **(source or {})}
    told = {} if conditioning is None else {"conditioning": conditioning}
    return Recipe.model_validate(
        {
            "name": "test",
            "model": {"id": "random", "system_prompt": system_prompt},
            "data": {"source": rows, **told, **data},
            "rewards": list(rewards),
            "rollout": {"max_completion_tokens": 16},
        }
    )


def prepared(folder: Path, conditioning: Mapping[str, Any] | None = None, **keys: Any) -> PrepareReport:
    """The report on rows.jsonl, prepared into the run `run` of the folder."""
    return prepare_data(recipe(conditioning, **keys), folder / "run", folder, byte_tokenizer())
