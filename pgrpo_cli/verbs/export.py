"""`pgrpo export`: a trained model in files of other programs, loaded again and compared before it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pgrpo_cli.errors import ExportError
from pgrpo_cli.eval.alignment import policy_of
from pgrpo_cli.eval.targets import EvalTarget, eval_target
from pgrpo_cli.exports.converter import find_converter, needs_converter
from pgrpo_cli.exports.destination import destination, refuse_foreign
from pgrpo_cli.exports.formats import FORMATS, Format, MergeInto, merge_into_of, quantization_of
from pgrpo_cli.exports.job import Job
from pgrpo_cli.exports.merged import read_weights
from pgrpo_cli.exports.record import finish
from pgrpo_cli.exports.reference import reference
from pgrpo_cli.exports.writers import write
from pgrpo_cli.model.load.precision import device_for
from pgrpo_cli.pretrained.device import describe
from pgrpo_cli.state.run import run_at

from .callbacks import Callbacks

if TYPE_CHECKING:
    from pgrpo_cli.exports.comparison import Checked

    from .source import StrPath


@dataclass(frozen=True)
class Export:
    """What was written: the folder, the files in it, how near they are to the run, and what to do next."""

    target: EvalTarget
    to: Format
    folder: Path
    files: tuple[Path, ...]
    checked: Checked
    commands: tuple[str, ...]


def export(
    run: StrPath,
    *,
    to: Format = "merged",
    quantization: str | None = None,
    merge_into: MergeInto | None = None,
    output: StrPath | None = None,
    step: int | None = None,
    llama_cpp: StrPath | None = None,
    device: str | None = None,
    callbacks: Callbacks | None = None,
) -> Export:
    """Write the model of a run, or that of its checkpoint after `step`, in the format `to`.

    `merge_into`: the weights that the run trained on, in NF4 or not (`trained`, the default), or the base
    model's `original` ones. `output`: a new folder, or that of an earlier export; default: in the run,
    `export/<format>-<type>`, or `export/<format>` where no type is chosen. `llama_cpp`: a folder of
    llama.cpp's sources, whose converter is run. Raises PgrpoError; then nothing was written.
    """
    callbacks = callbacks or Callbacks()
    if to not in FORMATS:
        raise ExportError(
            f"--to: found {to!r}; must be one of {', '.join(FORMATS)}", remedy="Choose one.", exit_code=2
        )
    quantization = quantization_of(to, quantization)
    merge_into = merge_into_of(to, merge_into)
    found = run_at(Path(run))
    target = eval_target(found, found.recipe(), found.recipe_dir, step)
    callbacks.on_run(target.run, target.recipe)
    for warning in target.warnings:
        callbacks.on_note(f"warning: {warning}")
    folder = Path(output) if output is not None else _default_folder(target, to, quantization)
    # Before minutes are spent on it.
    refuse_foreign(folder)
    if needs_converter(to, target.recipe.model):
        find_converter(None if llama_cpp is None else Path(llama_cpp))
    job = _job(target, to, quantization, merge_into, llama_cpp, device, callbacks.on_note)
    with destination(folder) as temporary:
        written = write(job, temporary)
        callbacks.on_note(_said(written.checked))
        names = finish(job, written, temporary)
    return Export(
        target, to, folder, tuple(folder / name for name in names), written.checked, written.commands(folder)
    )


def _default_folder(target: EvalTarget, to: Format, quantization: str | None) -> Path:
    return target.run.path / "export" / (to if quantization is None else f"{to}-{quantization}")


def _job(
    target: EvalTarget,
    to: Format,
    quantization: str | None,
    merge_into: MergeInto | None,
    llama_cpp: StrPath | None,
    device: str | None,
    on_note: Callable[[str], None],
) -> Job:
    """What is to be written, with the run's own answers. Its model is out of memory again after this."""
    chosen = device_for(target.recipe, device)
    on_note(describe(chosen))
    policy = policy_of(target, chosen)
    answers = reference(target, policy)
    place = None if llama_cpp is None else Path(llama_cpp)
    stops = policy.stop_token_ids
    exact = [answer.own for answer in answers]
    import torch

    nf4 = target.recipe.model.quantization.type == "nf4"
    rounded = str(policy.dtype).removeprefix("torch.") if nf4 and merge_into == "trained" else None
    if nf4 or policy.dtype is not torch.float32:
        del policy
        exact = read_weights(target, answers, rounded)
    return Job(target, to, quantization, place, rounded, tuple(answers), tuple(exact), stops, on_note)


def _said(checked: Checked) -> str:
    rounded = (
        f"; {checked.rounding_difference:.4f} of that are rounding that the run has and the export has not"
        if checked.rounding_difference
        else ""
    )
    return (
        f"Loaded again by {checked.by}: {checked.greedy_equal} of {checked.prompts} likeliest answers are "
        f"the run's, log-probabilities differ by {checked.mean_abs_logprob_difference:.4f} nats per token on "
        f"average{rounded}. From the same weights in float32 the export is {checked.export_difference:.4f} "
        f"away (allowed: {checked.bound:.2f}), the base model from the run {checked.trained_difference:.4f}."
    )
