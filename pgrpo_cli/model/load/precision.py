"""What a recipe's model requires of a device: its dtype, and kernels.

What a device cannot do is refused before any weight is loaded. Later it would be an obscure error of a
kernel, or hours of emulation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch

from pgrpo_cli.errors import ModelError
from pgrpo_cli.pretrained.device import choose_device, dotted, has_bfloat16
from pgrpo_cli.recipe.model import ModelSection
from pgrpo_cli.recipe.schema import Recipe

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_BITSANDBYTES = (6, 0)
"""The lowest compute capability that bitsandbytes has kernels for, according to its documentation."""
_ARCHITECTURE = re.compile(r"(sm|compute)_(\d+)(\d)([a-z]?)")


def device_for(recipe: Recipe, wish: str | None = None) -> torch.device:
    """The device named by `wish`, else by the recipe. Raises ModelError if it cannot run the recipe."""
    device = choose_device(wish or recipe.model.device)
    check_device(recipe, device)
    return device


def compute_dtype(section: ModelSection, device: torch.device) -> torch.dtype:
    """The dtype that the model computes in on `device`."""
    if section.compute_dtype == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float16
    return DTYPES[section.compute_dtype]


def check_device(recipe: Recipe, device: torch.device) -> None:
    """Raise ModelError for a GPU that cannot compute what the recipe asks for."""
    if device.type != "cuda" or torch.version.hip:
        return
    capability = torch.cuda.get_device_capability(device)
    shown = f"{device} ({torch.cuda.get_device_name(device)}, compute capability {dotted(capability)})"
    architectures = torch.cuda.get_arch_list()
    if architectures and not _serves(architectures, capability):
        raise ModelError(
            f"{shown}: torch {torch.__version__} has no code for it, only for {', '.join(architectures)}",
            remedy="Install a torch wheel that is built for this GPU, or take another one, or --device cpu.",
        )
    needing = list(_needing_bitsandbytes(recipe))
    if needing and capability < _BITSANDBYTES:
        raise ModelError(
            f"{shown}: {needing[0]} needs bitsandbytes, which serves compute capability "
            f"{dotted(_BITSANDBYTES)} and later",
            remedy="Set quantization to {type: none} and train.optimizer to {type: adamw}, or take another "
            "GPU, or --device cpu.",
        )
    if recipe.model.compute_dtype == "bfloat16" and not has_bfloat16(device):
        raise ModelError(
            f"{shown}: model.compute_dtype is bfloat16, which only compute capability 8.0 and later has",
            remedy="Set model.compute_dtype to auto, float16 or float32, or take another GPU, or the CPU.",
        )


def _needing_bitsandbytes(recipe: Recipe) -> Iterator[str]:
    """Keys of the recipe whose values need bitsandbytes, with these values."""
    sections = [("model", recipe.model), *((f"rewards.{n}", r) for n, r in enumerate(recipe.rewards))]
    for key, section in sections:
        quantization = getattr(section, "quantization", None)
        if quantization is not None and quantization.type == "nf4":
            yield f"{key}.quantization (nf4)"
    if recipe.train.optimizer.type == "adamw_8bit":
        yield "train.optimizer (adamw_8bit)"


def _serves(architectures: list[str], capability: tuple[int, int]) -> bool:
    """Whether code for one of `architectures` runs on a GPU of that compute capability.

    Machine code (`sm_86`) runs on GPUs of the same major version and the same or a later minor version. PTX
    (`compute_86`) runs on all later GPUs. A name with a letter at its end runs on exactly that capability.
    """
    for name in architectures:
        match = _ARCHITECTURE.fullmatch(name)
        if match is None:
            continue
        built = int(match[2]), int(match[3])
        if match[4]:
            runs = built == capability
        else:
            runs = built <= capability and (match[1] == "compute" or built[0] == capability[0])
        if runs:
            return True
    return False
