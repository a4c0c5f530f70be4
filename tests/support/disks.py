"""File systems that refuse: disks of a few kilobytes, which are really full; those without locks."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


@contextmanager
def small_disk(path: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of its own at `path`, gone afterwards. Skips the test where it cannot be mounted."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root to mount a file system")
    path.mkdir()
    if not _mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(path)):
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextmanager
def unable_to_write(folder: Path) -> Iterator[None]:
    """Everything below `folder` is readable only, for root too."""
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    # Root writes where it likes; as somebody else it does not.
    for parent in (*folder.parents,):
        if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o055)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        for path in paths:
            path.chmod(0o755 if path.is_dir() else 0o644)


def enlarge(disk: Path, kilobytes: int) -> None:
    """Give a small disk another size."""
    assert _mount("-o", f"remount,size={kilobytes}k", str(disk))


def _mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


def without_locks(number: int) -> Callable[[object, int], None]:
    """flock of a file system that has no locks, and says so with this error."""

    def flock(file: object, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    return flock


def fill(folder: Path) -> None:
    """Leave no byte free on the disk of `folder`."""
    with (folder / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"x" * 512):
            pass
