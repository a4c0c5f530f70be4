"""Pretrained models that rewards compute with: loaded from safetensors, run in batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgrpo_cli.errors import ModelError, RewardError
from pgrpo_cli.paths import path_or_id
from pgrpo_cli.recipe.reward_pretrained import PretrainedFields

CLASSIFIER, ENCODER = "AutoModelForSequenceClassification", "AutoModel"
"""The classes of transformers that make a reward model and an embedding model."""

Encode = Callable[[Sequence[int]], Mapping[str, Any]]
"""From the places of some inputs to the padded tensors [batch, tokens] that the model takes, on the CPU."""


@dataclass(frozen=True)
class Pretrained:
    """A model in evaluation mode on its device, with its tokenizer; the two numbers limit a batch."""

    model: Any
    tokenizer: Any
    device: Any
    max_tokens: int
    batch_size: int
    label: str

    def tokenized(self, *texts: Sequence[str], special_tokens: bool = True) -> Mapping[str, Any]:
        """Tensors of a batch of texts, or of pairs of texts; too long ones lose their beginning."""
        tensors: Mapping[str, Any] = self.tokenizer(
            *map(list, texts),
            padding=True,
            truncation=True,
            max_length=self.max_tokens,
            add_special_tokens=special_tokens,
            return_tensors="pt",
        )
        return tensors

    def outputs(
        self, lengths: Sequence[int], encode: Encode, read: Callable[[Any, Mapping[str, Any]], Any]
    ) -> list[Any]:
        """What `read` makes of the model's output, a row for each input, in order.

        Inputs of like length share a batch. Raises RewardError where a single one does not fit in memory.
        """
        import torch

        order = sorted(range(len(lengths)), key=lambda place: (lengths[place], place))
        found: dict[int, Any] = {}
        size = self.batch_size
        while order:
            places = order[:size]
            try:
                with torch.inference_mode():
                    tensors = {name: value.to(self.device) for name, value in encode(places).items()}
                    rows = read(self.model(**tensors), tensors).float().cpu()
            except torch.OutOfMemoryError as error:
                if size == 1:
                    raise RewardError(
                        f"reward {self.label!r}: its model does not fit in the GPU's memory beside the run: "
                        f"{str(error).splitlines()[0]}",
                        remedy="Lower its max_tokens, set its quantization to nf4, or take a smaller model.",
                    ) from error
                size = max(1, size // 2)
                continue
            found.update(zip(places, rows, strict=True))
            order = order[size:]
        return [found[place] for place in range(len(lengths))]


def load_pretrained(
    factory: str, section: PretrainedFields, recipe_dir: Path, label: str, *, unused: str | None = None
) -> Pretrained:
    """The model that transformers' class `factory` makes, on the GPU if there is one. Raises ModelError.

    `unused`: prefix of weights that the checkpoint may lack, because nothing is read from them.
    """
    import torch
    import transformers

    name = locate(section, recipe_dir, label)
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    options: dict[str, Any] = {"revision": section.revision} if section.revision else {}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False, **options)
        model, info = getattr(transformers, factory).from_pretrained(
            name,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            dtype="auto" if device.type == "cuda" else torch.float32,
            device_map={"": device},
            quantization_config=_quantization(section),
            **options,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"reward {label!r}: the model {section.model!r} cannot be loaded: {_first_line(error)}",
            remedy="Check the id or path. Weights must be safetensors; models that need remote code, and "
            "pickled weights, are not loaded. Offline, a hub model must be in the local cache.",
        ) from error
    _refuse_missing(info["missing_keys"], section.model, factory, label, unused)
    _set_padding(model, tokenizer, section.model, label)
    tokenizer.truncation_side = "left"
    longest = min(section.max_tokens, tokenizer.model_max_length)
    return Pretrained(model.eval(), tokenizer, device, longest, section.batch_size, label)


def locate(section: PretrainedFields, recipe_dir: Path, label: str) -> str:
    """The folder or hub id. Raises ModelError for a folder that is not there."""
    folder = path_or_id(section.model, f"reward {label!r}: model", recipe_dir)
    if folder is None:
        return section.model
    if not folder.is_dir():
        raise ModelError(
            f"reward {label!r}: no folder {folder}",
            remedy="Check the path; it starts at the recipe's folder.",
        )
    return str(folder)


def _quantization(section: PretrainedFields) -> Any:
    if section.quantization.type == "none":
        return None
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=section.quantization.double,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _refuse_missing(missing: Sequence[str], name: str, factory: str, label: str, unused: str | None) -> None:
    """Weights that the checkpoint lacks would be random numbers."""
    lacking = sorted(key for key in missing if unused is None or not key.startswith(unused))
    if lacking:
        raise ModelError(
            f"reward {label!r}: the checkpoint {name!r} lacks weights that {factory} needs: "
            f"{', '.join(lacking[:3])}{', ...' if len(lacking) > 3 else ''}",
            remedy="Name a checkpoint that was trained for this task.",
        )


def _set_padding(model: Any, tokenizer: Any, name: str, label: str) -> None:
    """Inputs of a batch are padded; a classifier finds the last token by it."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"reward {label!r}: the tokenizer of {name!r} has neither a padding nor an end token",
            remedy="Set a pad_token in its tokenizer_config.json.",
        )
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = tokenizer.pad_token_id


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
