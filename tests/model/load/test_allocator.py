"""glibc keeps what a model frees: using large buffers again asks the system for no pages."""

import os
import subprocess
import sys

import pytest
import torch

SCRIPT = """
import ctypes, resource, sys
from pgrpo_cli.model.load.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
size = 8 << 20
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    buffers = [libc.malloc(size) for _ in range(16)]
    for buffer in buffers:
        ctypes.memset(buffer, 1, size)
    for buffer in buffers:
        libc.free(buffer)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_is_used_again_without_page_faults():
    faults = {}
    for how in ("kept", "returned"):
        done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True)
        faults[how] = int(done.stdout)
    # 16 buffers of 8 MiB are 32768 pages of 4 kB, or 64 of 2 MiB.
    assert faults["kept"] < 32 <= faults["returned"]


PRODUCTS = """
import ctypes, sys
from pgrpo_cli.model.load.allocator import keep_freed_memory
keep_freed_memory()
import torch
def resident():
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(lines["VmRSS"].split()[0]) >> 10
weight = torch.ones(512, 512, dtype=torch.bfloat16)
def products(sizes):
    for rows in sizes:
        torch.ones(rows, 512, dtype=torch.bfloat16) @ weight
products(range(100, 300))
before = resident()
products(range(300, 900))
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
def test_products_of_ever_new_sizes_do_not_pile_up():
    def growth(**environment):
        done = subprocess.run(
            [sys.executable, "-c", PRODUCTS],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, **environment},
        )
        return int(done.stdout)

    # What the user says counts more than what is set here.
    assert growth() < 0.7 * growth(ONEDNN_PRIMITIVE_CACHE_CAPACITY="1024")
