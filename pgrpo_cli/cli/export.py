"""`export`: a trained model in the files that other programs load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pgrpo_cli.exports.formats import Format, MergeInto

from .callbacks import Terminal
from .common import (
    DeviceOption,
    JsonOption,
    QuietOption,
    RunArgument,
    StepOption,
    option,
    path_option,
)
from .terminal import emit, say


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(export)


def export(
    run: RunArgument,
    to: Annotated[
        Format,
        typer.Option(
            "--to",
            help="adapter: LoRA for PEFT. merged: safetensors for transformers, vLLM and others. gguf: for "
            "llama.cpp, LM Studio. gguf-lora: LoRA for llama.cpp. ollama: GGUF with Modelfiles.",
            show_default=False,
        ),
    ],
    quantization: Annotated[
        str | None,
        option(
            "--quantization",
            "TYPE",
            "Numbers of the weights. gguf, ollama: q8_0 (default), f16, bf16, f32, q5_1, q5_0, q4_1, "
            "q4_0. merged: f32, bf16, f16; default: the base model's. gguf-lora: f32 (default), bf16, f16.",
        ),
    ] = None,
    merge_into: Annotated[
        MergeInto | None,
        typer.Option(
            "--merge-into",
            help="trained: what the run computed with, rounded to NF4 where it was (default); it answers as "
            "what was evaluated. original: the base model's weights as they were before.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        path_option(
            "--output",
            "DIR",
            "A new folder, or that of an earlier export, which is replaced. Default: in the run, "
            "export/FORMAT-TYPE such as export/gguf-q8_0, or export/FORMAT if no type is chosen.",
        ),
    ] = None,
    step: StepOption = None,
    llama_cpp: Annotated[
        Path | None,
        path_option(
            "--llama-cpp",
            "DIR",
            "llama.cpp's sources: run the converters in it, where the base model is no GGUF file. "
            "Default: those of the extra `gguf`.",
        ),
    ] = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a run's model for other programs; load it again and compare its answers with the run's."""
    from pgrpo_cli.verbs.export import export

    found = export(
        run,
        to=to,
        quantization=quantization,
        merge_into=merge_into,
        output=output,
        step=step,
        llama_cpp=llama_cpp,
        device=device,
        callbacks=Terminal(quiet=quiet),
    )
    if as_json:
        checked = {
            key: getattr(found.checked, key)
            for key in ("prompts", "greedy_equal", "mean_abs_logprob_difference")
        }
        emit(json.dumps({"files": [str(path) for path in found.files], "checked": checked}, indent=2))
        return
    for path in found.files:
        say(str(path))
    if not quiet and found.commands:
        say("Next:\n" + "\n".join(f"  {command}" for command in found.commands))
