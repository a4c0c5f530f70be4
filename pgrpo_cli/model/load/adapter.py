"""The LoRA adapter. It is always made from the recipe; from a saved adapter only the weights are read.

A run directory may come from a stranger, and an adapter's configuration can make PEFT do much more: make
other kinds of adapters, match regular expressions, import modules.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from pgrpo_cli.errors import CheckpointError, ModelError
from pgrpo_cli.recipe.model import AdapterSection

from .targets import targets_of

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"

_ELSEWHERE = frozenset({"base_model_name_or_path", "inference_mode", "peft_version", "revision"})
"""Fields of a saved configuration that do not describe the adapter, and are not compared."""
_REMEDY = "It was saved by another recipe or from another base model, or the files are damaged."


def attach_adapter(base: Any, section: AdapterSection, *, on_meta: bool = False) -> Any:
    """A PEFT model of `base` with a new adapter, on the meta device if `on_meta`. Raises ModelError."""
    from peft import get_peft_model

    targets = targets_of(base, section.target_modules)
    try:
        return get_peft_model(base, _lora_config(section, targets), low_cpu_mem_usage=on_meta)
    except ValueError as error:
        if "lora_dropout" in str(error):
            raise ModelError(
                f"adapter.dropout is {section.dropout}, and the experts of this model are adapted without",
                remedy="Set adapter.dropout to 0, or leave the experts out with adapter.target_modules.",
            ) from error
        raise ModelError(
            f"adapter.target_modules: {str(error).splitlines()[0]}",
            remedy="Name other linear layers of the model in adapter.target_modules.",
        ) from error


def _lora_config(section: AdapterSection, targets: str | list[str]) -> Any:
    """The PEFT configuration of the recipe's adapter."""
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        r=section.r,
        lora_alpha=section.alpha,  # type: ignore[arg-type]
        lora_dropout=section.dropout,
        use_rslora=section.use_rslora,
        target_modules=targets,
    )


def adapter_state(model: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The adapter of a PEFT model as PEFT saves it: weights by name, and the configuration in values of JSON.

    PEFT holds some fields as sets, whose order differs from process to process; here they are sorted.
    """
    from peft import get_peft_model_state_dict

    # By default PEFT asks the hub whether the vocabulary was resized. This adapter never contains embeddings.
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    config = {**model.peft_config["default"].to_dict(), "inference_mode": True}
    for field, value in config.items():
        if isinstance(value, set):
            config[field] = sorted(value)
    plain: dict[str, Any] = json.loads(json.dumps(config, sort_keys=True))
    return {name: weight.contiguous() for name, weight in weights.items()}, plain


def restore_adapter(model: Any, folder: Path) -> None:
    """Load the weights in `folder` into the adapter of a PEFT model.

    Raises CheckpointError if the adapter in the folder does not have the configuration and shapes of the
    model's adapter.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    _refuse_config(model.peft_config["default"], folder / CONFIG)
    path = folder / WEIGHTS
    try:
        saved = load_file(path)
    except (OSError, SafetensorError) as error:
        raise _unusable(path, str(error).splitlines()[0]) from error
    needed = get_peft_model_state_dict(model, save_embedding_layers=False)
    for name in sorted(needed.keys() | saved.keys()):
        if name not in saved:
            raise _unusable(path, f"it lacks {name}")
        if name not in needed:
            raise _unusable(path, f"it has {name}, which the recipe's adapter does not have")
        if saved[name].shape != needed[name].shape:
            shapes = (f"{'x'.join(map(str, one[name].shape))}" for one in (saved, needed))
            raise _unusable(path, "{} is {}, not {}".format(name, *shapes))
    set_peft_model_state_dict(model, saved)


def _refuse_config(ours: Any, path: Path) -> None:
    """Raise CheckpointError if a saved configuration differs from that of the recipe's adapter."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(saved, dict):
            raise ValueError("it is not a mapping")
    except (OSError, ValueError, RecursionError) as error:
        raise _unusable(path, str(error).splitlines()[0]) from error
    # A field that only one version of PEFT has is skipped: its default is how the other version behaves.
    for name, value in ours.to_dict().items():
        if name in saved and name not in _ELSEWHERE and _plain(saved[name]) != _plain(value):
            raise _unusable(path, f"{name} is {_shown(saved[name])}, and the recipe makes {_shown(value)}")


def _plain(value: Any) -> Any:
    """A value in the form of JSON; sets and lists are sorted, so that they can be compared."""
    if isinstance(value, (set, list, tuple)):
        return sorted(map(str, value))
    return getattr(value, "value", value)


def _shown(value: Any) -> str:
    text = json.dumps(_plain(value), default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _unusable(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"the adapter in {path.parent} does not load: {path.name}: {why}", remedy=_REMEDY)
