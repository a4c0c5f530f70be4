"""What lies beside the weights: export.json, the model card, and the licence of the base model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pgrpo_cli import __version__
from pgrpo_cli.state.files import atomic_write, write_json

from .card import model_card
from .destination import MADE_BY, RECORD
from .job import Job, Written
from .licence import write_licence
from .presets import as_json, presets_of

PRESETS = "presets.json"
"""What stands before the question of somebody of each preference group."""
_OWN = (".pgrpo-export", RECORD)


def finish(job: Job, written: Written, folder: Path) -> list[str]:
    """Write the files that every format has. Returns the names of all files of the export."""
    licence = write_licence(job.target.recipe.model, job.target.recipe_dir, folder)
    presets, more = presets_of(job.target)
    write_json(folder / PRESETS, as_json(presets))
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
