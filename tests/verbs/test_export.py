"""Where an export goes, as the documentation and the help say it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.main import get_command

from pgrpo_cli.cli.app import app
from pgrpo_cli.exports.formats import Format, quantization_of
from pgrpo_cli.verbs.export import _default_folder


@pytest.mark.parametrize(
    ("to", "quantization", "folder"),
    [
        ("gguf", None, "gguf-q8_0"),
        ("gguf-lora", None, "gguf-lora-f32"),
        ("merged", "bf16", "merged-bf16"),
        ("merged", None, "merged"),
        ("adapter", None, "adapter"),
    ],
)
def test_the_default_folder_has_the_type_if_there_is_one(
    to: Format, quantization: str | None, folder: str
) -> None:
    target: Any = SimpleNamespace(run=SimpleNamespace(path=Path("run")))
    assert _default_folder(target, to, quantization_of(to, quantization)) == Path("run/export") / folder


def test_the_default_folder_is_told() -> None:
    (output,) = (each for each in get_command(app).commands["export"].params if each.name == "output")  # type: ignore[attr-defined]
    for text in (output.help, (Path(__file__).parents[2] / "docs" / "export.md").read_text()):
        assert "export/FORMAT-TYPE" in text and "export/gguf-q8_0" in text
