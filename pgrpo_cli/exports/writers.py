"""Writes an export of each format and reads it back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgrpo_cli.eval.targets import EvalTarget

from .comparison import Checked, compared, require_near
from .formats import Format, bound
from .merged import adapted_base, own_dtype, read_adapter, read_merged, save_merged, save_tokenizer
from .reference import Answer, Read


@dataclass(frozen=True)
class Job:
    """What is to be exported. `answers` are the run's own, `stop_token_ids` the tokens at which it stops."""

    target: EvalTarget
    to: Format
    quantization: str | None
    llama_cpp: Path | None
    answers: tuple[Answer, ...]
    stop_token_ids: tuple[int, ...]
    on_note: Callable[[str], None] = field(repr=False)

    @property
    def nf4(self) -> bool:
        """Whether the run's base model is rounded to 4 bits."""
        return self.target.recipe.model.quantization.type == "nf4"


@dataclass(frozen=True)
class Written:
    """What was found about a written export. `quantization`: the type of its weights. `base`: what the
    adapter was merged into, as a sentence. `next`: from the folder, the commands that a user may type next.
    """

    checked: Checked
    quantization: str
    base: str
    next: Callable[[Path], tuple[str, ...]] = field(repr=False)
    details: dict[str, Any] = field(default_factory=dict)

    def commands(self, folder: Path) -> tuple[str, ...]:
        """The commands for the export in `folder`."""
        return self.next(folder)


def write(job: Job, folder: Path) -> Written:
    """Write the export into `folder` and compare it with the run. Raises ExportError if it is too far."""
    return _WRITERS[job.to](job, folder)


def checked(job: Job, found: list[Read], quantization: str | None, by: str) -> Checked:
    """The comparison of what was read back. Raises ExportError."""
    result = compared(job.answers, found, bound=bound(quantization, nf4=job.nf4), by=by)
    require_near(result, job.answers, found)
    return result


def _merged(job: Job, folder: Path) -> Written:
    quantization = job.quantization or own_dtype(job.target.recipe.model, job.target.recipe_dir)
    base = save_merged(job.target, folder, quantization, job.stop_token_ids)
    job.on_note(base.how)
    found = read_merged(folder, list(job.answers))
    return Written(
        checked(job, found, quantization, "transformers"),
        quantization,
        base.how,
        lambda folder: (f"AutoModelForCausalLM.from_pretrained({str(folder)!r})",),
        {"merged_into_original": base.original},
    )


def _adapter(job: Job, folder: Path) -> Written:
    from pgrpo_cli.model.load.adapter import adapter_state
    from pgrpo_cli.state.adapter import Adapter, save_adapter

    model, _ = adapted_base(job.target)
    model.peft_config["default"].base_model_name_or_path = job.target.recipe.model.id
    save_adapter(Adapter(*adapter_state(model)), folder)
    del model
    save_tokenizer(job.target, folder)
    found = read_adapter(job.target, folder, list(job.answers))
    how = "The adapter is not merged; it was compared on the base model's original weights."
    return Written(
        checked(job, found, None, "PEFT"),
        "f32",
        how,
        lambda folder: (f"PeftModel.from_pretrained(base_model, {str(folder)!r})",),
    )


_WRITERS: dict[Format, Callable[[Job, Path], Written]] = {"merged": _merged, "adapter": _adapter}
