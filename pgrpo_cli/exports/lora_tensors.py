"""An adapter's matrices in the order of rows that a GGUF file has.

llama.cpp rotates neighbouring numbers of a head for some architectures, where transformers rotates its two
halves. The rows of queries and keys are in another order then. Which order a file has is found by comparing
its weights with those that transformers reads from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pgrpo_cli.errors import ExportError

from .gguf_file import Change, Gguf

_PREFIX = "base_model.model."
_ADAPTER = "default"


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
    """The layers of the adapter on a PEFT model whose base model was read from `source` in float32.

    Raises ExportError where the file has a tensor in an order that is not known.
    """
    found = []
    for module, layer in _layers(model):
        name = source.name_of(module)
        order = _order(source.weight(name), layer.base_layer.weight, model.config.get_text_config(), name)
        found.append(LoraTensor(name, module, layer, order))
    return found


def changes(tensors: list[LoraTensor]) -> dict[str, Change]:
    """What is added to each tensor, made when it is written."""
    return {tensor.name: tensor.change for tensor in tensors}


def _layers(model: Any) -> Iterator[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name.removeprefix(_PREFIX), module


def _order(stored: np.ndarray, weight: torch.Tensor, config: Any, name: str) -> np.ndarray | None:
    loaded = weight.detach().float().cpu().numpy()
    if stored.shape == loaded.shape:
        if np.allclose(stored, loaded, rtol=1e-4, atol=1e-6):
            return None
        heads = {config.num_attention_heads, getattr(config, "num_key_value_heads", None)} - {None}
        for count in sorted(heads):
            order = interleaved(len(loaded), count)
            if order is not None and np.allclose(stored, loaded[order], rtol=1e-4, atol=1e-6):
                return order
    raise ExportError(
        f"the GGUF file has {name} in an order that is not known here",
        remedy="Export with --to merged, and convert that folder with llama.cpp's converter.",
    )


def interleaved(rows: int, heads: int) -> np.ndarray | None:
    """The order of rows in which the two halves of each head alternate; None where heads have no halves."""
    if rows % (2 * heads):
        return None
    return np.arange(rows).reshape(heads, 2, rows // heads // 2).swapaxes(1, 2).reshape(rows)
