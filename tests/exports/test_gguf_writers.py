"""How weights reach a GGUF file whose base model is none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pgrpo_cli.exports import gguf_writers
from pgrpo_cli.recipe.model import ModelSection


@pytest.mark.parametrize(
    ("quantization", "dtype"), [("f32", "f32"), ("f16", "f16"), ("bf16", "bf16"), ("q8_0", "f16")]
)
def test_weights_are_not_rounded_further_than_wanted_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantization: str, dtype: str
) -> None:
    taken = []
    monkeypatch.setattr(gguf_writers, "save_merged", lambda *given: taken.append(given[2]))
    monkeypatch.setattr(gguf_writers, "_converted", lambda *given: taken.append(given[2]))
    # Nothing is loaded: it need not be there.
    recipe = SimpleNamespace(model=ModelSection(id="owner/name"))
    target = SimpleNamespace(recipe=recipe, recipe_dir=tmp_path)
    job: Any = SimpleNamespace(target=target, quantization=quantization, stop_token_ids=(1,), rounded=None)
    gguf_writers._merged_source(job, tmp_path)
    assert taken == [dtype, dtype]
