"""An adapter's matrices in the order of rows that a GGUF file has.

llama.cpp rotates neighbouring numbers of a head for some architectures, where transformers rotates its two
halves. The rows of queries and keys are in another order then. Which order a file has is found by comparing
its weights with those that transformers reads from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from pgrpo_cli.errors import ExportError

from .gguf_file import Gguf, Weight

_PREFIX = "base_model.model."
_ADAPTER = "default"
_NEAR = 0.3
"""NF4 rounds normal numbers by 0.09 of their size; rows in another order are 1.4 away."""


@dataclass(frozen=True)
class LoraTensor:
    """A's and B's part in one tensor: `name` in the file, `module` in transformers. `order` of B's rows in
    the file (None: the same).
    """

    name: str
    module: str
    layer: Any
    order: np.ndarray | None

    @property
    def scale(self) -> float:
        """What B·A is multiplied by."""
        return float(self.layer.scaling[_ADAPTER])

    def matrices(self) -> tuple[np.ndarray, np.ndarray]:
        """A [r, in] and B [out, r], float32, as the file has them."""
        down, up = (
            side[_ADAPTER].weight.detach().float().cpu().numpy()
            for side in (self.layer.lora_A, self.layer.lora_B)
        )
        return down, up if self.order is None else up[self.order]

    def set_matrices(self, down: np.ndarray, up: np.ndarray) -> None:
        """Put matrices of a file into the layer."""
        if self.order is not None:
            up = up[np.argsort(self.order)]
        for side, matrix in ((self.layer.lora_A, down), (self.layer.lora_B, up)):
            side[_ADAPTER].weight.data.copy_(torch.from_numpy(np.array(matrix)))

    def change(self) -> np.ndarray:
        """What is added to the weight: scale · B·A."""
        down, up = self.matrices()
        return np.float32(self.scale) * (up @ down)


def lora_tensors(model: Any, source: Gguf) -> list[LoraTensor]:
    """The layers of the adapter on a PEFT model whose base model was read from `source`, in float32 or
    rounded to NF4.

    Raises ExportError where the file has a tensor in an order that is not known.
    """
    found = []
    for module, layer in _layers(model):
        name = source.name_of(module)
        order = _order(model, source.weight(name), layer.base_layer.weight, name)
        found.append(LoraTensor(name, module, layer, order))
    return found


def changes(tensors: list[LoraTensor]) -> dict[str, Weight]:
    """What is added to each tensor, made when it is written."""
    return {tensor.name: tensor.change for tensor in tensors}


def nf4_weights(model: Any, source: Gguf, modules: Sequence[str]) -> dict[str, Weight]:
    """The weights that modules of a PEFT model have without the adapter, in the order of `source`, by tensor.

    Raises ExportError as `lora_tensors`.
    """
    found: dict[str, Weight] = {}
    for module in modules:
        name = source.name_of(module)
        layer = model.get_submodule(f"{_PREFIX}{module}")
        weight = getattr(layer, "base_layer", layer).weight
        order = _order(model, source.weight(name), weight, name)
        found[name] = partial(_ordered, weight, order)
    return found


def _ordered(weight: torch.Tensor, order: np.ndarray | None) -> np.ndarray:
    array = weight.detach().numpy()
    return array if order is None else array[order]


def _layers(model: Any) -> Iterator[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name.removeprefix(_PREFIX), module


def _order(model: Any, stored: np.ndarray, weight: torch.Tensor, name: str) -> np.ndarray | None:
    """The order in which the weight is nearest to what is stored; it must be near."""
    loaded = weight.detach().float().cpu().numpy()
    if stored.shape == loaded.shape:
        config = model.config.get_text_config()
        heads = {config.num_attention_heads, getattr(config, "num_key_value_heads", None)} - {None}
        known = [None, *(interleaved(len(loaded), count) for count in sorted(heads))]
        distances = [_distance(stored, loaded if order is None else loaded[order]) for order in known]
        nearest = int(np.argmin(distances))
        if distances[nearest] <= _NEAR:
            return known[nearest]
    raise ExportError(
        f"the GGUF file has {name} in an order that is not known here",
        remedy="Export with --to merged, and convert that folder with llama.cpp's converter.",
    )


def _distance(stored: np.ndarray, loaded: np.ndarray) -> float:
    """The size of the difference, as a share of the size of what is stored."""
    return float(np.linalg.norm(stored - loaded) / max(float(np.linalg.norm(stored)), 1e-30))


def interleaved(rows: int, heads: int) -> np.ndarray | None:
    """The order of rows in which the two halves of each head alternate; None where heads have no halves."""
    if rows % (2 * heads):
        return None
    return np.arange(rows).reshape(heads, 2, rows // heads // 2).swapaxes(1, 2).reshape(rows)
