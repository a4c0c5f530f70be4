"""Chooses the device that models run on, and says why a device cannot be used.

If torch cannot use a GPU, it warns once per process and continues on the CPU. Here that is an error, since a
run that was meant for a GPU would train on the CPU for days.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import warnings
from pathlib import Path

import torch

from pgrpo_cli.errors import ModelError

from .location import first_line

_DRIVER, _DEVICES = Path("/proc/driver/nvidia/version"), Path("/dev")
_CPU_INFO, _MEMORY_INFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
NATIVE_BFLOAT16 = (8, 0)
"""The lowest compute capability with bfloat16 in hardware. Older NVIDIA GPUs emulate it slowly."""


def choose_device(wish: str = "auto") -> torch.device:
    """The device for `auto`, `cpu`, `cuda` or `cuda:N`.

    `auto` is the first GPU, or the CPU if there is none. Raises ModelError if the requested GPU does not
    exist, and for `auto` if there is a GPU that torch cannot use.
    """
    if wish == "cpu":
        return torch.device("cpu")
    cause = _unusable()
    if cause is None:
        index = int(wish.partition(":")[2] or 0)
        if index >= torch.cuda.device_count():
            raise ModelError(
                f"the device {wish} was asked for, and there is none: there are {_listed()}",
                remedy="Name one of these with --device or in model.device.",
            )
        return torch.device("cuda", index)
    if wish == "auto" and (_hidden() or not (_has_nvidia() or _torch_sees_one())):
        return torch.device("cpu")
    raise _refusal(wish, cause)


def set_up(device: torch.device) -> None:
    """Prepare this process for running a model on `device`. Must be called by all code that loads one.

    A GPU becomes the current device, since CUDA graphs are captured on the current device and kernels that
    are given no device run on it. cuDNN's attention is disabled: it compiles a kernel for each new length,
    and every batch here has another length. Setting a priority order would not help, since torch sets its
    own at the first attention.
    """
    if device.type == "cuda":
        if device.index is not None:
            torch.cuda.set_device(device)
        torch.backends.cuda.enable_cudnn_sdp(False)


def describe(device: torch.device) -> str:
    """A sentence about the device: its name, its memory, and the dtypes that it supports."""
    if device.type == "cpu":
        return f"Device: cpu{_processor()}, {_memory_of_cpu()}{_cpu_types()}."
    properties = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    kind = "architecture" if torch.version.hip else "compute capability"
    types = "bfloat16 and float16" if has_bfloat16(device) else "float16, not bfloat16"
    return (
        f"Device: {device}, {properties.name}, {total / 2**30:.1f} GiB of memory ({free / 2**30:.1f} free), "
        f"{kind} {dotted(torch.cuda.get_device_capability(device))}, computes in {types}."
    )


def memory_of(device: torch.device) -> tuple[int | None, int]:
    """The free bytes (None if the system does not say, on a CPU), and the total."""
    if device.type != "cpu":
        return torch.cuda.mem_get_info(device)
    available = _field(_MEMORY_INFO, "MemAvailable").removesuffix(" kB")
    free = int(available) << 10 if available.isdecimal() else None
    return free, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device should compute in bfloat16: on a GPU, whether its hardware supports it."""
    if device.type != "cuda" or torch.version.hip or not torch.cuda.is_available():
        return True
    return torch.cuda.get_device_capability(device) >= NATIVE_BFLOAT16


def _unusable() -> str | None:
    """Why torch cannot use any GPU, in its own words; None if it can."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        there = _torch_sees_one()
        try:
            # torch warns only once per process, perhaps earlier; this call raises the reason again. Also, a
            # GPU that is counted may still fail to initialise.
            torch.cuda.init()
            if there:
                return None
            cause = "torch finds no GPU"
        except (RuntimeError, AssertionError) as error:
            cause = first_line(error)
    reasons = [str(w.message).strip().splitlines()[0] for w in caught if "CUDA" in str(w.message)]
    return reasons[0] if reasons else cause


def _torch_sees_one() -> bool:
    return torch.cuda.is_available() and torch.cuda.device_count() > 0


def _hidden() -> bool:
    """Whether the user hides all GPUs from this process."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible is not None and visible.strip() in ("", "-1")


def _has_nvidia() -> bool:
    """Whether this process has an NVIDIA GPU. The driver alone does not show it: containers without one see
    it.
    """
    return any(_DEVICES.glob("nvidia[0-9]*")) or shutil.which("nvidia-smi") is not None


def _refusal(wish: str, cause: str) -> ModelError:
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    versions = f"torch {torch.__version__} is built for {built}"
    if _hidden():
        return ModelError(
            f"the device {wish} was asked for, and CUDA_VISIBLE_DEVICES hides all GPUs: there is cpu",
            remedy="Unset CUDA_VISIBLE_DEVICES, or take --device cpu.",
        )
    if not (_has_nvidia() or _torch_sees_one()):
        return ModelError(
            f"the device {wish} was asked for, and there is none: there is cpu ({cause}; {versions})",
            remedy="Take --device cpu.",
        )
    return ModelError(
        f"this machine has a GPU, and torch cannot use it: {cause} ({versions}, "
        f"the driver is {driver_version() or 'of an unknown version'})",
        remedy="Install the torch wheel for a CUDA version that the driver serves "
        "(https://pytorch.org/get-started/locally), or update the driver. "
        "To compute on the CPU, take --device cpu.",
    )


def driver_version() -> str | None:
    """The version of NVIDIA's driver; None if it is unknown or there is no driver."""
    try:
        found = re.search(r"Kernel Module(?: for \S+)?\s+(\d[\d.]*)", _DRIVER.read_text(errors="replace"))
    except OSError:
        found = None
    return found[1] if found else None


def _listed() -> str:
    """All devices that torch can use."""
    count = torch.cuda.device_count()
    return ", ".join(["cpu", *(f"cuda:{n} ({torch.cuda.get_device_name(n)})" for n in range(count))])


def dotted(capability: tuple[int, int]) -> str:
    """A compute capability as text, such as 8.6."""
    return "{}.{}".format(*capability)


def _field(path: Path, name: str) -> str:
    """The first value with that name in a file of `name : value` lines; empty if there is none."""
    try:
        found = re.search(rf"^{name}\s*:\s*(.*)$", path.read_text(errors="replace"), re.MULTILINE)
    except OSError:
        return ""
    return found[1].strip() if found else ""


def _processor() -> str:
    name = _field(_CPU_INFO, "model name") or platform.machine()
    return f", {name}, {torch.get_num_threads()} threads"


def _memory_of_cpu() -> str:
    free, total = memory_of(torch.device("cpu"))
    shown = "" if free is None else f" ({free / 2**30:.1f} free)"
    return f"{total / 2**30:.1f} GiB of memory{shown}"


def _cpu_types() -> str:
    flags = {*_field(_CPU_INFO, "flags").split(), *_field(_CPU_INFO, "Features").split()}
    if not flags:
        return ""
    return f", {'with' if flags & _BFLOAT16_FLAGS else 'without'} bfloat16 instructions"
