"""Checks of the machine: what is installed, what computes, and what it reaches at its best."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from pgrpo_cli import __version__
from pgrpo_cli.errors import ModelError
from pgrpo_cli.model.load.precision import check_device
from pgrpo_cli.pretrained.device import choose_device, describe, dotted, driver_version, memory_of

from . import results
from .subject import Subject

_REPEAT = 5
_SHARE_OF_FREE = 16
"""A buffer takes one so manieth of the free memory at most."""


def versions(subject: Subject) -> tuple[results.Versions, str | None]:
    """Found without touching a device."""
    found = results.Versions(
        python=platform.python_version(),
        pgrpo=__version__,
        torch=torch.__version__,
        cuda=torch.version.cuda,
        driver=driver_version(),
        transformers=_version("transformers"),
        peft=_version("peft"),
        bitsandbytes=_version("bitsandbytes"),
        platform=platform.platform(),
    )
    missing = [name for name in ("transformers", "peft", "bitsandbytes") if getattr(found, name) == "none"]
    return found, f"not installed: {', '.join(missing)}" if missing else None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def device(subject: Subject) -> tuple[results.Device, str | None]:
    """Raises ModelError, with torch's own words, for one that cannot be used."""
    chosen = choose_device(subject.wish)
    on_gpu = chosen.type == "cuda"
    properties = torch.cuda.get_device_properties(chosen) if on_gpu else None
    free, total = memory_of(chosen)
    found = results.Device(
        device=str(chosen),
        says=describe(chosen),
        capability=dotted(torch.cuda.get_device_capability(chosen)) if on_gpu else None,
        multiprocessors=getattr(properties, "multi_processor_count", None),
        total_bytes=total,
        free_bytes=free,
        compute_dtype=_name(subject.dtype),
        shape=subject.shape.name,
    )
    try:
        check_device(subject.recipe(), chosen)
    except ModelError as error:
        return found, str(error).replace("\n  ", "; ")
    return found, None


def rates(subject: Subject) -> tuple[results.Rates, str | None]:
    """Of a copy far larger than any cache, and of a large square product."""
    half = subject.dtype
    return results.Rates(
        copy_rate=copy_rate(subject),
        half_dtype=_name(half),
        half_rate=matrix_rate(subject, half),
        float32_rate=matrix_rate(subject, torch.float32),
    ), None


def copy_rate(subject: Subject) -> float:
    """Bytes read and written a second."""
    free, total = memory_of(subject.device)
    size = min((free or total) // _SHARE_OF_FREE, (1 << 30) if subject.on_gpu else (1 << 27))
    source = torch.ones(size, dtype=torch.uint8, device=subject.device)
    target = torch.empty_like(source)
    return 2 * size / median_seconds(subject, lambda: target.copy_(source))


def matrix_rate(subject: Subject, dtype: torch.dtype) -> float:
    """Operations a second."""
    size = 8192 if subject.on_gpu else 1024
    a, b = (torch.randn(size, size, device=subject.device).to(dtype) for _ in range(2))
    return 2.0 * size**3 / median_seconds(subject, lambda: a @ b)


def median_seconds(subject: Subject, work: Callable[[], Any], repeat: int = _REPEAT) -> float:
    """Median of `repeat` times after one that is not counted."""
    spent = []
    for _ in range(repeat + 1):
        started = subject.seconds()
        work()
        spent.append(subject.seconds() - started)
    return statistics.median(spent[1:])


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
