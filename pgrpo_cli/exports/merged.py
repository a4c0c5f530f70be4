"""The run's model as one: the adapter's product is added to the base model's weights, in float32."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.errors import ExportError
from pgrpo_cli.eval.targets import EvalTarget
from pgrpo_cli.model.load.adapter import attach_adapter, restore_adapter
from pgrpo_cli.model.load.base_model import load_base_model, load_config, load_tokenizer
from pgrpo_cli.model.nf4 import nf4_layers
from pgrpo_cli.pretrained.chat import Chat
from pgrpo_cli.pretrained.location import locate, quiet
from pgrpo_cli.recipe.model import ModelSection, NoQuantization
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.state.files import write_json

from .formats import MergeInto, sampling_of
from .reference import Answer, Read, prompts_now, read

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
_SHORT = {dtype: name for name, dtype in DTYPES.items()}
_SHARD = "5GB"
_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
_CPU = torch.device("cpu")
# Sentencepiece models, which a fast tokenizer does not need and llama.cpp's converter reads.
_VOCABULARIES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")


@dataclass(frozen=True)
class Base:
    """The base model that an adapter is merged into. `into`: which weights it has; `how`: the same as a
    sentence. `nf4`: the modules whose weights are NF4, dequantized.
    """

    model: Any
    into: MergeInto
    how: str
    nf4: tuple[str, ...] = ()


def load_base(section: ModelSection, recipe_dir: Path, rounded: str | None = None) -> Base:
    """The base model in float32 on the CPU, as it was before NF4 rounded it where that can be had.

    `rounded`: a compute dtype; the weights are then those that a run computes with in it, their NF4 rounding
    dequantized. It depends on the dtype: weights near the middle of two values go to one or the other.
    """
    if _quantized_on_disk(section, recipe_dir):
        model = load_base_model(section.model_copy(update={"compute_dtype": "float32"}), recipe_dir, _CPU)
        how = "The base model's weights are 4-bit on disk: the adapter was merged into them as dequantized."
        return Base(model.dequantize().float(), "trained", how)
    if rounded is not None:
        model = load_base_model(section.model_copy(update={"compute_dtype": rounded}), recipe_dir, _CPU)
        layers = set(nf4_layers(model))
        nf4 = tuple(name for name, module in model.named_modules() if module in layers)
        how = "The adapter was merged into the weights that the run trained on: the base model's in NF4."
        return Base(model.dequantize().float(), "trained", how, nf4)
    plain = section.model_copy(update={"quantization": NoQuantization(), "compute_dtype": "float32"})
    how = "The adapter was merged into the original weights of the base model"
    if section.id.endswith(".gguf"):
        how = "The adapter was merged into the weights of the base model's GGUF file, as they are dequantized"
    if section.quantization.type == "nf4":
        how += ", not into their NF4 rounding, which the run was trained on"
    return Base(load_base_model(plain, recipe_dir, _CPU), "original", f"{how}.")


def _quantized_on_disk(section: ModelSection, recipe_dir: Path) -> bool:
    if section.id == "random" or section.id.endswith(".gguf"):
        return False
    return getattr(load_config(section, recipe_dir), "quantization_config", None) is not None


def own_dtype(section: ModelSection, recipe_dir: Path) -> str:
    """The type of the base model's numbers: that of its configuration; bf16 for a GGUF file."""
    if section.id.endswith(".gguf"):
        return "bf16"
    dtype = getattr(load_config(section, recipe_dir), "dtype", None)
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype, None)
    return _SHORT.get(dtype, "f32") if isinstance(dtype, torch.dtype) else "f32"


def adapted_base(target: EvalTarget, rounded: str | None = None) -> tuple[Any, Base]:
    """The base model in float32 under the run's adapter, as a PEFT model; `rounded` as in `load_base`."""
    base = load_base(target.recipe.model, target.recipe_dir, rounded)
    model = attach_adapter(base.model, target.recipe.adapter)
    restore_adapter(model, target.adapter)
    return model.eval(), base


def save_base(target: EvalTarget, folder: Path) -> None:
    """Write the base model in float32, as it is without the adapter, and the run's tokenizer to `folder`."""
    model = load_base(target.recipe.model, target.recipe_dir).model
    _prepare_configs(model, torch.float32, target.recipe, ())
    with quiet():
        model.save_pretrained(str(folder), max_shard_size=_SHARD)
    save_tokenizer(target, folder)
    _drop_code(folder)


def save_merged(
    target: EvalTarget,
    folder: Path,
    quantization: str,
    stop_token_ids: tuple[int, ...],
    rounded: str | None,
) -> Base:
    """Write the merged model, its tokenizer with the chat template, and its generation config to `folder`."""
    adapted, base = adapted_base(target, rounded)
    model = adapted.merge_and_unload(safe_merge=False)
    dtype = DTYPES[quantization]
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight.to(dtype)).all():
            raise ExportError(
                f"{name} holds numbers that {quantization} cannot hold", remedy="Take --quantization bf16."
            )
    model.to(dtype)
    _prepare_configs(model, dtype, target.recipe, stop_token_ids)
    with quiet():
        model.save_pretrained(str(folder), max_shard_size=_SHARD)
    save_tokenizer(target, folder)
    _drop_code(folder)
    return base


def _prepare_configs(model: Any, dtype: torch.dtype, recipe: Recipe, stop_token_ids: tuple[int, ...]) -> None:
    """What is saved beside the weights: the type of numbers, how the model samples, and the tokens at which
    the run stops.
    """
    from transformers import GenerationConfig

    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.dtype = dtype
    model.config.use_cache = True
    own = model.generation_config
    # The base model's penalties and filters are left out, as in the run, which never sampled with them.
    model.generation_config = GenerationConfig(
        do_sample=True,
        **sampling_of(recipe),
        bos_token_id=own.bos_token_id,
        eos_token_id=list(stop_token_ids) or own.eos_token_id,
        pad_token_id=own.pad_token_id,
    )


def bake(tokenizer: Any, section: ModelSection) -> Any:
    """The tokenizer with one chat template, which begins by assigning the recipe's
    `model.chat_template_kwargs`: no other program knows these.
    """
    variables = section.chat_template_kwargs
    # Python's literals of what YAML holds are Jinja's. Chat templates are rendered with trim_blocks: the line
    # break after a block is dropped, and nothing of the template, whose first line still begins a line.
    assigned = "".join(f"{{%- set {name} = {value!r} %}}\n" for name, value in variables.items())
    tokenizer.chat_template = assigned + tokenizer.get_chat_template()
    return tokenizer


def save_tokenizer(target: EvalTarget, folder: Path) -> None:
    """Write the run's tokenizer, its chat template included."""
    section = target.recipe.model
    with quiet():
        bake(load_tokenizer(section, target.recipe_dir), section).save_pretrained(str(folder))
    if section.id == "random" or section.id.endswith(".gguf"):
        return
    source = locate(section, target.recipe_dir).files()
    for name in _VOCABULARIES:
        if (source / name).is_file() and not (folder / name).exists():
            shutil.copyfile(source / name, folder / name)


def _drop_code(folder: Path) -> None:
    """Remove names of Python files, which the base model's settings may have and a program might run."""
    for path in folder.glob("*.json"):
        settings = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(settings, dict) and settings.pop("auto_map", None) is not None:
            write_json(path, settings)


def read_merged(target: EvalTarget, folder: Path, answers: Sequence[Answer]) -> list[Read]:
    """How the model in `folder`, as plain transformers loads it, reads the run's answers.

    Raises ExportError where its tokenizer or chat template give other tokens than the run's prompts.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet():
        require_tokenizer(AutoTokenizer.from_pretrained(str(folder), **_LOCAL), target, answers)
        model = AutoModelForCausalLM.from_pretrained(str(folder), dtype="auto", **_LOCAL).eval()
    return [read(model, answer.prompt.input_ids, answer.tokens) for answer in answers]


def require_tokenizer(tokenizer: Any, target: EvalTarget, answers: Sequence[Answer]) -> None:
    """Raise ExportError unless a saved tokenizer and its chat template give the run's prompts and tokens."""
    require_tokens(answers, lambda text: tokenizer(text, add_special_tokens=False)["input_ids"])
    _require_template(tokenizer, prompts_now(target, answers))


def _require_template(tokenizer: Any, prompts: Sequence[PreparedPrompt]) -> None:
    """Raise ExportError unless the saved chat template, by itself, writes the run's prompts."""
    conversations = [prompt.messages for prompt in prompts]
    texts = Chat(tokenizer, "the exported tokenizer").texts(conversations, add_generation_prompt=True)
    for prompt, text in zip(prompts, texts, strict=True):
        if text != prompt.prompt:
            raise ExportError(
                f"the exported chat template writes the prompt {prompt.prompt_id!r} otherwise than "
                "the run does",
                remedy="Nothing was written. Check model.chat_template_kwargs of the run's recipe.",
            )


def read_weights(target: EvalTarget, answers: Sequence[Answer], rounded: str | None) -> list[Read]:
    """How the weights that are exported, in float32 and with the adapter beside them, read the answers."""
    model, _ = adapted_base(target, rounded)
    return [read(model, answer.prompt.input_ids, answer.tokens) for answer in answers]


def read_adapter(target: EvalTarget, folder: Path, answers: Sequence[Answer]) -> list[Read]:
    """How the base model under the adapter in `folder`, as bare PEFT loads it, reads the run's answers.

    Raises ExportError where its tokenizer or chat template give other tokens than the run's prompts.
    """
    from peft import PeftModel
    from transformers import AutoTokenizer

    with quiet():
        require_tokenizer(AutoTokenizer.from_pretrained(str(folder), **_LOCAL), target, answers)
    base = load_base(target.recipe.model, target.recipe_dir)
    model = PeftModel.from_pretrained(base.model, str(folder)).eval()
    return [read(model, answer.prompt.input_ids, answer.tokens) for answer in answers]


def require_tokens(answers: Sequence[Answer], tokenize: Any) -> None:
    """Raise ExportError unless each prompt's text gives the tokens that the run's prompt has."""
    for answer in answers:
        found, due = list(tokenize(answer.prompt.prompt)), list(answer.prompt.input_ids)
        if found != due:
            place = next((i for i, (a, b) in enumerate(zip(found, due, strict=False)) if a != b), len(due))
            raise ExportError(
                f"the exported tokenizer reads the prompt {answer.prompt.prompt_id!r} otherwise than the run "
                f"does: from token {place + 1} on ({len(found)} tokens, {len(due)} in the run)",
                remedy="Nothing was written. The base model's tokenizer is one that this format cannot keep.",
            )
