"""Writes an export of each format and reads it back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pgrpo_cli.model.load.adapter import adapter_state
from pgrpo_cli.pretrained.location import locate
from pgrpo_cli.recipe.model import ModelSection
from pgrpo_cli.state.adapter import Adapter, save_adapter

from .formats import Format
from .gguf_writers import write_gguf, write_lora, write_ollama
from .job import Job, Written, checked
from .merged import adapted_base, own_dtype, read_adapter, read_merged, save_merged, save_tokenizer


def write(job: Job, folder: Path) -> Written:
    """Write the export into `folder` and compare it with the run. Raises ExportError if it is too far."""
    return _WRITERS[job.to](job, folder)


def _merged(job: Job, folder: Path) -> Written:
    quantization = job.quantization or own_dtype(job.target.recipe.model, job.target.recipe_dir)
    base = save_merged(job.target, folder, quantization, job.stop_token_ids, job.rounded)
    job.on_note(base.how)
    found = read_merged(job.target, folder, job.answers)
    return Written(
        checked(job, found, quantization, "transformers"),
        quantization,
        base.how,
        lambda folder: (f"AutoModelForCausalLM.from_pretrained({str(folder)!r})",),
        {"merged_into": base.into},
    )


def _adapter(job: Job, folder: Path) -> Written:
    model, _ = adapted_base(job.target)
    config = model.peft_config["default"]
    config.base_model_name_or_path, config.revision = _base_model(
        job.target.recipe.model, job.target.recipe_dir
    )
    save_adapter(Adapter(*adapter_state(model)), folder)
    del model
    save_tokenizer(job.target, folder)
    found = read_adapter(job.target, folder, job.answers)
    how = "The adapter is not merged; it was compared on the base model's original weights."
    return Written(
        checked(job, found, None, "PEFT"),
        "f32",
        how,
        lambda folder: (f"PeftModel.from_pretrained(base_model, {str(folder)!r})",),
    )


def _base_model(section: ModelSection, recipe_dir: Path) -> tuple[str, str | None]:
    """The base model's name, by which PEFT finds it from any folder, and its revision on the hub."""
    if section.id == "random" or section.id.startswith("package:"):
        return section.id, None
    at = locate(section, recipe_dir)
    return (at.name if at.folder is None else str((at.folder / (at.gguf_file or "")).resolve())), at.revision


_WRITERS: dict[Format, Callable[[Job, Path], Written]] = {
    "adapter": _adapter,
    "merged": _merged,
    "gguf": write_gguf,
    "gguf-lora": write_lora,
    "ollama": write_ollama,
}
