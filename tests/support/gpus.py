"""GPUs that are not there: what torch says about them, for code that only asks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pgrpo_cli.pretrained import device


def fake_gpus(
    monkeypatch: pytest.MonkeyPatch,
    *capabilities: tuple[int, int],
    architectures: tuple[str, ...] = ("sm_75", "sm_80", "sm_90"),
    gib: tuple[int, ...] = (16, 16, 16),
) -> None:
    """Torch sees a GPU of each capability, of `gib` with 12 GiB free, named after its number."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda at: f"Card {_index(at)}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda at: capabilities[_index(at)])
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(architectures))
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda at: SimpleNamespace(name=f"Card {_index(at)}", total_memory=gib[_index(at)] << 30),
    )
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda at: (12 << 30, gib[_index(at)] << 30))


def fake_driver(monkeypatch: pytest.MonkeyPatch, folder: Path, cause: str) -> None:
    """NVIDIA's driver is there, and torch, which is built for another CUDA, says `cause` once."""
    version = folder / "version"
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.82.01  Wed Oct 27 21:21:55\n")
    (folder / "nvidia0").touch()
    monkeypatch.setattr(device, "_DRIVER", version)
    monkeypatch.setattr(device, "_DEVICES", folder)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def init() -> None:
        raise RuntimeError(f"{cause}\nmore")

    monkeypatch.setattr(torch.cuda, "init", init)


def _index(at: torch.device | int) -> int:
    return at if isinstance(at, int) else at.index or 0
