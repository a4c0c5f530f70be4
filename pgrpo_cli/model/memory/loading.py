"""What loading a model holds besides the model."""

from __future__ import annotations

from pathlib import Path

from pgrpo_cli.recipe.model import ModelSection

from ..load.base_model import locate
from ..load.precision import compute_dtype
from ..policy import Policy
from .weights import base_parameters, base_weights

_GGUF_COPIES = 2.5
"""Copies, in float32, of the tensor that is being read from a GGUF file; measured."""


def loading_bytes(policy: Policy, section: ModelSection, recipe_dir: Path, device: str) -> int:
    """Bytes at the peak of loading, the finished weights left out.

    Transformers reads safetensors one by one onto the device. A GGUF file, and the random model, first become
    a whole model on the CPU, from which the quantized one is made. On a CPU all is in the same memory.
    """
    width = compute_dtype(section, policy.device).itemsize
    largest = max(layer.numel() for layer in policy.model.parameters())
    if device != "cpu":
        return largest * width
    whole = base_parameters(policy).total() * width
    finished = base_weights(policy).total()
    quantized = section.quantization.type != "none"
    if section.id == "random":
        return 2 * whole + (whole if quantized else 0)
    if locate(section, recipe_dir).gguf_file:
        reading = whole + round(_GGUF_COPIES * 4 * largest)
        return max(reading - finished, whole if quantized else 0)
    # The file is mapped: its pages are resident, and quantized weights leave their unquantized copies' holes.
    return 2 * whole if quantized else 0
