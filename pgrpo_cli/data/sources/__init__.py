"""Where prompts come from: a reader for every `type` of `data.source`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pgrpo_cli.data.records import SourceData

from .context import ReadContext
from .feedback import read_feedback_files
from .generic import read_csv, read_datasets, read_jsonl, read_parquet
from .goodreads import read_goodreads
from .movielens import read_movielens
from .open_webui import read_open_webui
from .personas import read_personas
from .presets import read_helpsteer2, read_personalllm, read_prism, read_ultrafeedback

Reader = Callable[[Any, ReadContext], SourceData]
"""Takes the section `data.source`."""

SOURCES: dict[str, Reader] = {
    "personas": read_personas,
    "jsonl": read_jsonl,
    "csv": read_csv,
    "parquet": read_parquet,
    "datasets": read_datasets,
    "ultrafeedback": read_ultrafeedback,
    "helpsteer2": read_helpsteer2,
    "personalllm": read_personalllm,
    "prism": read_prism,
    "movielens": read_movielens,
    "goodreads": read_goodreads,
    "feedback": read_feedback_files,
    "open_webui": read_open_webui,
}
