"""Running out of a device's memory: how it shows, and who gives back what is only kept for speed.

A device is one for all models on it. A reward model that finds no room does not know the policy's rollouts,
whose workspace may hold gigabytes that it can do without.
"""

from __future__ import annotations

import gc
from typing import Protocol
from weakref import WeakSet

_SAME_IN_OTHER_WORDS = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What allocations that go past torch's own allocator say, in a plain RuntimeError."""


class Keeper(Protocol):
    """Who keeps memory on a device for speed alone."""

    def release(self) -> bool:
        """Give all of it back; whether there was any."""


_KEEPERS: WeakSet[Keeper] = WeakSet()


def ask_in_need(keeper: Keeper) -> None:
    """Have `give_back` ask this keeper too, for as long as it lives."""
    _KEEPERS.add(keeper)


def give_back() -> bool:
    """Have all keepers give back what they keep; whether there was any."""
    released = [keeper.release() for keeper in list(_KEEPERS)]
    return any(released)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the device has no memory left."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _SAME_IN_OTHER_WORDS)
    )


def release_memory() -> None:
    """Give the device what nothing refers to any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
