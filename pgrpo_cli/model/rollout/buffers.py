"""Where the tensors of a decode step live: anywhere, or at addresses that a captured graph can rely on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


class Buffers:
    """Tensors as they come: a new one for every request."""

    def room(self, name: str, shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
        """An uninitialised tensor of the shape, with the dtype and on the device of `like`."""
        return like.new_empty(shape)

    def store(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Keep the tensor and return what holds its values from now on."""
        return tensor


class StaticBuffers(Buffers):
    """One allocation a name, handed out from its start: equal shapes lie at equal addresses.

    An allocation that is too small is replaced, which moves it; `addresses` tells.
    """

    def __init__(self) -> None:
        self._flat: dict[str, torch.Tensor] = {}

    def room(self, name: str, shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
        """The first elements of the name's allocation; they hold whatever they held."""
        size = math.prod(shape)
        flat = self._flat.get(name)
        if flat is None or flat.numel() < size or flat.dtype != like.dtype:
            # Dropped before its successor is made, or both would have to fit.
            self._flat.pop(name, None)
            flat = None
            flat = self._flat[name] = like.new_empty(size)
        return flat[:size].view(*shape)

    def store(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Copy the tensor into the name's allocation. It must not be a view of that allocation."""
        return self.room(name, tensor.shape, tensor).copy_(tensor)

    def addresses(self) -> tuple[int, ...]:
        """Where every allocation lies."""
        return tuple(flat.data_ptr() for flat in self._flat.values())

    def bytes(self) -> int:
        """Memory held."""
        return sum(flat.numel() * flat.element_size() for flat in self._flat.values())

    def clear(self) -> None:
        """Give the memory back."""
        self._flat.clear()
