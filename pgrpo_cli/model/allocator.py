"""glibc's allocator and oneDNN's cache, told what to keep.

Left to itself glibc maps every buffer of more than some 100 kB anew from the system and returns it when it is
freed; a model's activations are all of that size, and the system clears each page again every time. Raising
its two thresholds cuts the time of a decoded token on a CPU to a third. What is kept is full of holes that
the next phase of a step, whose buffers have other sizes, cannot use: `return_freed_memory` gives them back.

oneDNN, which multiplies in bfloat16, keeps code and buffers of its last 1024 products, half a megabyte each,
and a product of every new number of tokens is another one. Those of a micro-batch are a few dozen.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import sys
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 << 20
"""glibc takes no higher one on 64-bit systems (DEFAULT_MMAP_THRESHOLD_MAX)."""
_KEPT = 1 << 30
"""Bytes free at the heap's end before some are returned."""


_CACHED_PRODUCTS = "128"


def keep_freed_memory() -> bool:
    """Whether the allocator took both thresholds; elsewhere than on glibc nothing happens.

    Also bounds oneDNN's cache, if it has not been used yet and the user has not said how large it is to be.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _CACHED_PRODUCTS)
    mallopt = _glibc("mallopt")
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD) and mallopt(_M_TRIM_THRESHOLD, _KEPT))


def return_freed_memory() -> None:
    """Give all free pages back to the system, in the midst of the heap too; on glibc only."""
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _glibc(name: str) -> Any:
    """A function of the C library, None where it is not glibc's."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL(ctypes.util.find_library("c")), name)
    except (OSError, AttributeError):
        return None
