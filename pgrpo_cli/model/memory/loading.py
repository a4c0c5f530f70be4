"""The temporary memory that loading a model needs besides the model itself."""

from __future__ import annotations

from pathlib import Path

from pgrpo_cli.pretrained.location import locate
from pgrpo_cli.recipe.model import ModelSection

from ..load.precision import compute_dtype
from ..policy import Policy
from .weights import base_parameters, base_weights

_GGUF_COPIES = 2.5
"""How many float32 copies of a tensor exist while it is read from a GGUF file; measured."""


def loading_bytes(policy: Policy, section: ModelSection, recipe_dir: Path, device: str) -> int:
    """Bytes at the peak of loading, without those of the finished weights.

    transformers reads safetensors tensor by tensor onto the device. From a GGUF file, and for the random
    model, a whole unquantized model is first made on the CPU, and the model of the recipe from it. If the
    device is a CPU both are in the same memory.
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
    # The pages of the mapped file are resident, and the memory of the unquantized copies stays with the heap.
    return 2 * whole if quantized else 0
