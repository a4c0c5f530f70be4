"""The formats of llama.cpp: a merged model as GGUF, and the adapter alone as GGUF."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pgrpo_cli.data.conditioning.presets import plain_preset
from pgrpo_cli.model.load.base_model import load_tokenizer
from pgrpo_cli.pretrained import loading
from pgrpo_cli.pretrained.chat import Chat
from pgrpo_cli.pretrained.location import Location, locate

from . import llama_cpp
from .converter import convert, find_converter
from .formats import sampling_of
from .gguf_file import TYPES, Gguf, rewrite, write_new
from .go_template import differences, role_template
from .job import Job, Written, checked, presets_of
from .lora_tensors import LoraTensor, changes, lora_tensors, nf4_weights
from .merged import DTYPES, Base, adapted_base, bake, require_tokenizer, save_base, save_merged
from .ollama import commands, parameters_of, write_modelfiles
from .random_gguf import write_random
from .reference import Answer, Read, prompts_now, read

MODEL, LORA = "model.gguf", "lora.gguf"
_SCRATCH = ".scratch"


@dataclass(frozen=True)
class Source:
    """The base model as a GGUF file. `model`: the same in float32 under the adapter; `tensors`: the adapter's
    parts.
    """

    gguf: Gguf
    model: Any
    tensors: list[LoraTensor]
    base: Base


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A folder for files that are not part of the export, on the same disk."""
    path = folder / _SCRATCH
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def write_gguf(job: Job, folder: Path) -> Written:
    """The merged model as `model.gguf`."""
    path = folder / MODEL
    with scratch(folder) as aside:
        source = _merged_source(job, aside)
        quantization = str(job.quantization)
        rewrite(
            source.gguf,
            path,
            quantization,
            weights=nf4_weights(source.model, source.gguf, source.base.nf4),
            changes=changes(source.tensors),
            metadata=_metadata(job, source.gguf),
        )
        base = source.base
        del source
        job.on_note(base.how)
        found, by = _read(job, path)
    return Written(
        checked(job, found, quantization, by),
        quantization,
        base.how,
        lambda folder: (shlex.join(["llama-cli", "-m", str(folder / MODEL), "-cnv"]),),
        {"merged_into": base.into},
    )


def write_ollama(job: Job, folder: Path) -> Written:
    """The merged model as `model.gguf`, and Modelfiles for Ollama."""
    written = write_gguf(job, folder)
    target = job.target
    recipe = target.recipe
    tokenizer = bake(load_tokenizer(recipe.model, target.recipe_dir), recipe.model)
    chat = Chat(tokenizer, "the exported tokenizer")
    gguf = Gguf(folder / MODEL)
    bos = tokenizer.bos_token if gguf.value("tokenizer.ggml.add_bos_token") else None
    for difference in differences(role_template(chat), chat):
        job.on_note(f"note: {difference}")
    presets, _ = presets_of(target)
    names = write_modelfiles(
        folder,
        chat,
        MODEL,
        parameters_of(
            recipe,
            tokenizer.convert_ids_to_tokens(list(job.stop_token_ids)),
            gguf.value(f"{gguf.architecture}.context_length"),
        ),
        plain_preset(recipe.model),
        presets,
        [answer.prompt.messages for answer in job.answers],
        bos=bos or "",
    )
    run = target.run.path.resolve().name
    return replace(
        written,
        commands=lambda folder: commands(folder, run, names),
        details={**written.details, "models": names},
    )


def write_lora(job: Job, folder: Path) -> Written:
    """The adapter alone as `lora.gguf`."""
    path = folder / LORA
    quantization = str(job.quantization)
    with scratch(folder) as aside:
        source = _source(job, aside)
        _write_lora(source, path, quantization)
        if llama_cpp.is_installed():
            base = aside / "checked.gguf"
            rewrite(source.gguf, base, "f32", metadata=_metadata(job, source.gguf))
            found, by = _asked(job, base, lora=path), llama_cpp.NAME
        else:
            found, by = _read_lora(source, path, job.answers), "gguf, on the base model in transformers"
    how = f"The adapter is for a GGUF file of {job.target.recipe.model.id}, of any quantization."
    return Written(
        checked(job, found, None, by),
        quantization,
        how,
        lambda folder: (
            shlex.join(["llama-cli", "-m", "BASE_MODEL.gguf", "--lora", str(folder / LORA), "-cnv"]),
        ),
    )


def _source(job: Job, aside: Path) -> Source:
    section = job.target.recipe.model
    if section.id == "random":
        gguf = write_random(section.random, aside / "random.gguf")
    elif section.id.endswith(".gguf"):
        at = locate(section, job.target.recipe_dir)
        gguf = Gguf(at.files() / str(at.gguf_file))
    else:
        # In float32, in which an adapter is found again.
        save_base(job.target, aside / "base")
        gguf = _converted(job, aside / "base", "f32")
    model, base = adapted_base(job.target, job.rounded)
    return Source(gguf, model, lora_tensors(model, gguf), base)


def _merged_source(job: Job, aside: Path) -> Source:
    """A base model that is no GGUF file is merged first and converted as a whole: the converter may put
    together what an adapter changes apart.
    """
    section = job.target.recipe.model
    if section.id == "random" or section.id.endswith(".gguf"):
        return _source(job, aside)
    # float16 holds weights 8 times as precisely as bfloat16 in the same room.
    dtype = str(job.quantization) if job.quantization in DTYPES else "f16"
    base = save_merged(job.target, aside / "merged", dtype, job.stop_token_ids, job.rounded)
    return Source(_converted(job, aside / "merged", dtype), None, [], base)


def _converted(job: Job, folder: Path, dtype: str) -> Gguf:
    path = folder.with_suffix(".gguf")
    convert(find_converter(job.llama_cpp), folder, path, dtype)
    shutil.rmtree(folder)
    return Gguf(path)


def _metadata(job: Job, gguf: Gguf) -> dict[str, Any]:
    """What the run has otherwise than the base model's file: the template, how the model samples, and whether
    BOS comes first.
    """
    tokenizer = load_tokenizer(job.target.recipe.model, job.target.recipe_dir)
    sampling = sampling_of(job.target.recipe)
    values: dict[str, Any] = {
        "tokenizer.chat_template": bake(tokenizer, job.target.recipe.model).chat_template,
        "general.sampling.temp": sampling["temperature"],
        "general.sampling.top_p": sampling["top_p"],
        "general.sampling.top_k": sampling["top_k"],
        # llama.cpp has 0.05 by default.
        "general.sampling.min_p": 0.0,
    }
    bos = gguf.value("tokenizer.ggml.bos_token_id")
    if bos is not None:
        values["tokenizer.ggml.add_bos_token"] = all(
            answer.prompt.input_ids[0] == int(bos) for answer in job.answers
        )
    return values


def _read(job: Job, path: Path) -> tuple[list[Read], str]:
    """How the file is read by llama.cpp, where that is installed, else by transformers."""
    if llama_cpp.is_installed():
        return _asked(job, path), llama_cpp.NAME
    at = Location("export", path.name, path.parent, path.name)
    require_tokenizer(loading.load_tokenizer(at), job.target, job.answers)
    model = loading.load_model(at, "AutoModelForCausalLM", dtype=torch.float32).eval()
    found = [read(model, answer.prompt.input_ids, answer.tokens) for answer in job.answers]
    job.on_note("note: xllamacpp is not installed: the file was not tried with llama.cpp itself")
    return found, "transformers"


def _asked(job: Job, path: Path, *, lora: Path | None = None) -> list[Read]:
    prompts = prompts_now(job.target, job.answers)
    return llama_cpp.read_gguf(path, job.answers, prompts, stop=job.stop_token_ids[0], lora=lora)


def _write_lora(source: Source, path: Path, quantization: str) -> None:
    arrays: dict[str, Any] = {}
    for tensor in source.tensors:
        down, up = tensor.matrices()
        arrays[f"{tensor.name}.lora_a"] = (down, TYPES[quantization])
        arrays[f"{tensor.name}.lora_b"] = (np.ascontiguousarray(up), TYPES[quantization])
    # llama.cpp multiplies by alpha / r, whatever the scale was made from.
    (alpha,) = {tensor.scale * tensor.matrices()[0].shape[0] for tensor in source.tensors}
    values = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": float(alpha)}
    write_new(path, source.gguf.architecture, values, arrays)


def _read_lora(source: Source, path: Path, answers: tuple[Answer, ...]) -> list[Read]:
    """How the base model reads the answers under the adapter of the file."""
    written = Gguf(path)
    alpha = float(written.value("adapter.lora.alpha"))
    for tensor in source.tensors:
        down, up = (written.weight(f"{tensor.name}.lora_{side}") for side in "ab")
        tensor.set_matrices(down, up)
        tensor.layer.scaling["default"] = alpha / len(down)
    return [read(source.model, answer.prompt.input_ids, answer.tokens) for answer in answers]
