"""Counts the bytes that a computation would allocate, while it runs on the meta device."""

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
class _Allocation:
    """The size of a storage and what it is for. It exists from the event `begin` until before `end`."""

    kind: str
    size: int
    begin: int
    end: float = math.inf


class Meter(TorchDispatchMode):
    """Within the block, records when storages of meta tensors are allocated and freed.

    `known`: tensors that are not counted, such as weights; operations may return views of them. `kind`
    returns what a new tensor is for; None: the current value of `label`.
    """

    def __init__(
        self, known: Iterable[torch.Tensor], kind: Callable[[torch.Tensor], str | None], *, label: str
    ) -> None:
        super().__init__()
        self.label = label
        self._kind = kind
        # The keys are addresses of storage objects. The references to the storages keep the objects alive, so
        # that no new storage gets the same address.
        self._known = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in known}
        self._allocations: list[_Allocation] = []
        self._alive: dict[int, tuple[weakref.ref[torch.UntypedStorage], _Allocation]] = {}
        self._bytes, self._most = 0, 0
        self._event, self._peak_event = 0, 0

    def peak(self) -> Counter[str]:
        """Bytes of each kind at the moment when their sum was largest."""
        sizes: Counter[str] = Counter()
        for allocation in self._allocations:
            if allocation.begin <= self._peak_event < allocation.end:
                sizes[allocation.kind] += allocation.size
        return sizes

    def rename(self, tensors: Iterable[torch.Tensor], kind: str) -> None:
        """Set what these tensors are for, after they have been allocated."""
        for tensor in tensors:
            _, allocation = self._alive[tensor.untyped_storage()._cdata]
            allocation.kind = kind

    def follows(self, tensor: torch.Tensor) -> bool:
        """Whether the storage of a tensor is counted."""
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
        allocation = _Allocation(self._kind(tensor) or self.label, storage.nbytes(), self._event)
        self._allocations.append(allocation)
        self._alive[key] = weakref.ref(storage, partial(self._freed, key)), allocation
        self._bytes += allocation.size
        if self._bytes > self._most:
            self._most, self._peak_event = self._bytes, self._event

    def _freed(self, key: int, _: Any) -> None:
        self._event += 1
        _, allocation = self._alive.pop(key)
        allocation.end = self._event
        self._bytes -= allocation.size
