"""The bytes that a computation holds, counted while it runs on the meta device, where nothing is held."""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass
class _Life:
    """A storage's bytes and what they are for; alive from the event `begin` up to the event `end`."""

    kind: str
    size: int
    begin: int
    end: float = math.inf


class Meter(TorchDispatchMode):
    """Within the block, follows all storages that meta tensors bring to life.

    `known`: tensors that are counted elsewhere, such as weights, of which operations return views. `kind`
    names what a new tensor is for; None: whatever `label` is set to.
    """

    def __init__(
        self, known: Iterable[torch.Tensor], kind: Callable[[torch.Tensor], str | None], *, label: str
    ) -> None:
        super().__init__()
        self.label = label
        self._kind = kind
        # The storages keep their addresses, which are the keys, from being used again.
        self._known = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in known}
        self._lives: list[_Life] = []
        self._alive: dict[int, tuple[weakref.ref[torch.UntypedStorage], _Life]] = {}
        self._bytes, self._most = 0, 0
        self._event, self._peak_event = 0, 0

    def peak(self) -> Counter[str]:
        """Bytes of each kind at the moment when most were alive in all."""
        sizes: Counter[str] = Counter()
        for life in self._lives:
            if life.begin <= self._peak_event < life.end:
                sizes[life.kind] += life.size
        return sizes

    def rename(self, tensors: Iterable[torch.Tensor], kind: str) -> None:
        """Say afterwards what these tensors are for."""
        for tensor in tensors:
            _, life = self._alive[tensor.untyped_storage()._cdata]
            life.kind = kind

    def follows(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor's storage counts."""
        return tensor.device.type == "meta"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor) and self.follows(value):
                self._count(value)
        return result

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known or key in self._alive:
            return
        self._event += 1
        life = _Life(self._kind(tensor) or self.label, storage.nbytes(), self._event)
        self._lives.append(life)
        self._alive[key] = weakref.ref(storage, partial(self._freed, key)), life
        self._bytes += life.size
        if self._bytes > self._most:
            self._most, self._peak_event = self._bytes, self._event

    def _freed(self, key: int, _: Any) -> None:
        self._event += 1
        _, life = self._alive.pop(key)
        life.end = self._event
        self._bytes -= life.size
