"""glibc's allocator and oneDNN's cache, told what to keep.

Left to itself glibc maps every buffer of more than some 100 kB anew from the system and returns it when it is
freed; a model's activations are all of that size, and the system clears each page again every time. Raising
its two thresholds saves a twentieth to a tenth of a step on a CPU. Giving the heap's holes back between
rollouts and updates (malloc_trim) would cost that again, for 2 % of the memory.

oneDNN, which multiplies in bfloat16, keeps code and buffers of its last 1024 products, half a megabyte each,
and a product of every new number of tokens is another one. Those of a micro-batch are a few dozen.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import sys

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
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(ctypes.util.find_library("c")).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD) and mallopt(_M_TRIM_THRESHOLD, _KEPT))
