"""What lies beside the weights: export.json, the model card, and the licence of the base model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pgrpo_cli import __version__
from pgrpo_cli.pretrained.location import LICENCES, locate
from pgrpo_cli.recipe.model import ModelSection
from pgrpo_cli.state.files import atomic_write, write_json

from .card import model_card
from .destination import MADE_BY, RECORD
from .job import Job, Written, presets_of

PRESETS = "presets.json"
"""What stands before the question of somebody of each preference group."""
_LARGEST = 1 << 20
"""Bytes of a licence's file."""
_LONGEST = 100
_OWN = (".pgrpo-export", RECORD)


def finish(job: Job, written: Written, folder: Path) -> list[str]:
    """Write the files that every format has. Returns the names of all files of the export."""
    licence = _write_licence(job.target.recipe.model, job.target.recipe_dir, folder)
    presets, more = presets_of(job.target)
    write_json(
        folder / PRESETS,
        {
            str(preset.preference_group): {"messages": list(preset.messages), "origin": preset.origin}
            for preset in presets
        },
    )
    if more:
        job.on_note(
            f"note: {PRESETS} has the {len(presets)} largest preference groups; {more} more are left out"
        )
    atomic_write(folder / "README.md", model_card(job, written, licence, presets))
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in _OWN
    )
    names = sorted([*names, RECORD])
    write_json(folder / RECORD, _record(job, written, licence, names))
    return names


def _record(job: Job, written: Written, licence: str | None, names: list[str]) -> dict[str, Any]:
    target = job.target
    return {
        "made_by": MADE_BY,
        "version": __version__,
        "format": job.to,
        "quantization": written.quantization,
        "run": target.run.path.resolve().name,
        "step": target.step,
        "adapter_sha256": target.adapter_hash,
        "base_model": target.recipe.model.id,
        "base_model_revision": target.recipe.model.revision,
        "base_model_licence": licence,
        "base_weights": written.base,
        **written.details,
        "checked": written.checked.as_json(),
        "files": names,
    }


def _write_licence(section: ModelSection, recipe_dir: Path, folder: Path) -> str | None:
    """Copy the licence files that lie beside the base model into `folder`.

    Returns the name of the licence, such as apache-2.0, or of its file, or None where neither is known.
    """
    if section.id == "random":
        return None
    at = locate(section, recipe_dir)
    if at.folder is not None and at.gguf_file:
        return _of_gguf(at.folder / at.gguf_file)
    copied = []
    for path in sorted(at.with_licences().iterdir()):
        if path.name in LICENCES and path.is_file() and path.stat().st_size <= _LARGEST:
            shutil.copyfile(path, folder / path.name)
            copied.append(path.name)
    return next((name for name in copied if not name.lower().startswith("notice")), None)


def _of_gguf(path: Path) -> str | None:
    from gguf import GGUFReader

    field = GGUFReader(path).fields.get("general.license")
    found = field.contents() if field is not None else None
    return found[:_LONGEST] if isinstance(found, str) else None
