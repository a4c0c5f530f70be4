"""Run directories for tests, without a model: a recipe, a manifest, and adapters of a few bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgrpo_cli.data.prepared import MANIFEST_VERSION
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.state.checksums import write_checksums
from pgrpo_cli.state.curve import curve_path
from pgrpo_cli.state.run import RunDirectory, claim

from .recipes import changed


def recipe_of(**values: Any) -> Recipe:
    """The minimal recipe with dotted keys (`train__steps=3` is train.steps) set to other values."""
    return Recipe.model_validate(changed(**values))


def make_run(
    path: Path, recipe: Recipe, *, data_hash: str = "d" * 64, adapter: str | None = "done"
) -> RunDirectory:
    """A run with prepared data of two preference groups; `adapter` is what its finished adapter holds."""
    run = RunDirectory(path)
    claim(run, recipe, run.path.parent)
    run.data.mkdir()
    groups = {"calm": {"train": 30, "eval": 2}, "loud": {"train": 10, "eval": 2}}
    manifest = {"version": MANIFEST_VERSION, "files": {}, "data_hash": data_hash, "preference_groups": groups}
    (run.data / "manifest.json").write_text(json.dumps(manifest))
    if adapter is not None:
        _write_adapter(run.adapter, adapter)
        write_checksums(run.adapter)
    return run


def add_checkpoint(run: RunDirectory, step: int, content: str) -> Path:
    """A whole checkpoint whose adapter holds `content`."""
    folder = run.checkpoints / f"step-{step:06d}"
    _write_adapter(folder, content)
    (folder / "trainer.json").write_text(json.dumps({"step": step}))
    for name in ("history.json", "history.safetensors", "optimizer.safetensors"):
        (folder / name).touch()
    write_checksums(folder)
    return folder


def add_curve(run: RunDirectory, macros: Mapping[int, float]) -> None:
    """A held-out curve of one preference group: its mean by step."""
    curve_path(run).parent.mkdir(exist_ok=True)
    lines = [
        {"step": step, "macro": macro, "groups": {"calm": {"n": 1, "mean": macro, "prompts": {"c": macro}}}}
        for step, macro in macros.items()
    ]
    curve_path(run).write_text("".join(json.dumps(line) + "\n" for line in lines))


def _write_adapter(folder: Path, content: str) -> None:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_text(content)
