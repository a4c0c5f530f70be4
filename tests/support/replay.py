"""CUDA graphs without a CUDA device: tensor operations recorded once and repeated at the same addresses.

As in a graph, nothing of Python runs again: a number that the host computed stays what it was, and an
operation that would make the host wait for the device, or whose shapes depend on values, is refused.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from pgrpo_cli.model.rollout.graphs import Step

_REFUSED = ("_local_scalar_dense", "nonzero", "_unique", "unique_dim", "masked_select", "equal")


class ReplayRecorder:
    """A `Recorder` for CPU tensors. `replays` counts the steps that were repeated."""

    def __init__(self) -> None:
        self.replays = self.warm_ups = self.forgotten = 0

    def warm_up(self, step: Step) -> None:
        self.warm_ups += 1
        step()

    def record(self, step: Step) -> Step:
        recording = _Recording()
        with recording:
            step()
        # Capturing takes no step, recording here does.
        recording.undo()
        return lambda: self._replay(recording)

    def _replay(self, recording: _Recording) -> None:
        self.replays += 1
        recording.replay()

    def forget(self) -> None:
        self.forgotten += 1


class BrokenRecorder(ReplayRecorder):
    """Cannot record anything, as if a kernel refused to be captured."""

    def record(self, step: Step) -> Step:
        raise RuntimeError("operation not permitted when stream is capturing\nsome more lines")


class ShortRecorder(ReplayRecorder):
    """Runs out of memory in its first recordings, which end as a broken capture does: with another error."""

    def __init__(self, error: Exception, *, shortages: int) -> None:
        super().__init__()
        self.tried, self._error, self._shortages = 0, error, shortages

    def record(self, step: Step) -> Step:
        self.tried += 1
        if self.tried > self._shortages:
            return super().record(step)
        try:
            raise self._error
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, Any]] = []
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in _REFUSED or (name == "index" and any(_is_mask(index) for index in args[1])):
            raise RuntimeError(f"{name} makes the host wait for the device")
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                storage = value.untyped_storage()
                self._before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        output = func(*args, **(kwargs or {}))
        self._calls.append((func, args, kwargs or {}, output))
        return output

    def undo(self) -> None:
        for storage, before in self._before.values():
            storage.copy_(before)

    def replay(self) -> None:
        for func, args, kwargs, recorded in self._calls:
            again, _ = tree_flatten(func(*args, **kwargs))
            for old, new in zip(tree_flatten(recorded)[0], again, strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def _is_mask(index: Any) -> bool:
    return index is not None and index.dtype == torch.bool
