"""Out-of-memory errors of a device, and releasing memory that is kept only for speed.

All models on a device share its memory. When a reward model runs out of memory, the workspace of the policy's
rollouts may keep gigabytes that can be released. The reward model does not know the workspace, so workspaces
register here.
"""

from __future__ import annotations

import gc
from typing import Protocol
from weakref import WeakSet

_SAME_IN_OTHER_WORDS = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""Messages of allocations outside of torch's allocator, which raise a plain RuntimeError."""


class Cache(Protocol):
    """Keeps memory on a device only for speed."""

    def release(self) -> bool:
        """Release all of it, and return whether there was any."""


_CACHES: WeakSet[Cache] = WeakSet()


def register_cache(cache: Cache) -> None:
    """Let `release_caches` release this one too, as long as it exists."""
    _CACHES.add(cache)


def release_caches() -> bool:
    """Release the memory of all registered caches, and return whether there was any."""
    released = [cache.release() for cache in list(_CACHES)]
    return any(released)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the device has no memory left."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _SAME_IN_OTHER_WORDS)
    )


def release_memory() -> None:
    """Return unreferenced memory of torch's caching allocator to the device."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
