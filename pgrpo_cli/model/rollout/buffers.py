"""Memory for the tensors of a decode step: newly allocated, or at fixed addresses for CUDA graphs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


class Buffers:
    """Allocates a new tensor for every request."""

    def empty(self, name: str, shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
        """An uninitialised tensor of the shape, with the dtype and on the device of `like`."""
        return like.new_empty(shape)

    def store(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Keep the values of a tensor, and return the tensor that holds them from now on."""
        return tensor


class StaticBuffers(Buffers):
    """Keeps one allocation per name and reuses it, so that equal shapes lie at equal addresses.

    An allocation that is too small is replaced by a larger one at another address. Callers that depend on
    addresses compare `addresses`.
    """

    def __init__(self) -> None:
        self._flat: dict[str, torch.Tensor] = {}

    def empty(self, name: str, shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
        """A view of the first elements of the name's allocation. They still hold earlier values."""
        size = math.prod(shape)
        flat = self._flat.get(name)
        if flat is None or flat.numel() < size or flat.dtype != like.dtype:
            # The old allocation is released first; otherwise both would have to fit into memory.
            self._flat.pop(name, None)
            flat = None
            flat = self._flat[name] = like.new_empty(size)
        return flat[:size].view(*shape)

    def store(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Copy the tensor into the name's allocation. It must not be a view of that allocation."""
        return self.empty(name, tensor.shape, tensor).copy_(tensor)

    def addresses(self) -> tuple[int, ...]:
        """The memory address of every allocation."""
        return tuple(flat.data_ptr() for flat in self._flat.values())

    def bytes(self) -> int:
        """Number of bytes that are allocated."""
        return sum(flat.numel() * flat.element_size() for flat in self._flat.values())

    def clear(self) -> None:
        """Release all allocations."""
        self._flat.clear()
