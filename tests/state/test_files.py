"""Files are whole or absent, and a disk that refuses is explained with a remedy that fits."""

from __future__ import annotations

import errno
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pgrpo_cli.errors import CheckpointError
from pgrpo_cli.state.files import aside, atomic_write, explained, put_in_place, write_json


def test_a_write_replaces_the_file_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    atomic_write(path, "old")
    atomic_write(path, b"new")
    write_json(tmp_path / "b.json", {"é": 1})
    assert path.read_text() == "new"
    assert (tmp_path / "b.json").read_bytes() == '{\n  "é": 1\n}\n'.encode()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "b.json"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    atomic_write(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="full"):
        atomic_write(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text() == "old"


def test_writers_with_one_process_id_do_not_meet(tmp_path: Path) -> None:
    """As in two containers on one volume."""
    path = tmp_path / "a.json"
    atomic_write(path, "-")

    def write(digit: str) -> None:
        for _ in range(40):
            atomic_write(path, digit * 100_000)

    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write, digit) for digit in "12"]
        while not all(writer.done() for writer in writers):
            assert path.read_text() in ("-", "1" * 100_000, "2" * 100_000)
    for writer in writers:
        writer.result()
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", [float("nan")])
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_put_in_place_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(FileNotFoundError):
        put_in_place(tmp_path / "missing", tmp_path / "a")
    assert (tmp_path / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    (tmp_path / "b").write_text("new")
    assert put_in_place(tmp_path / "b", tmp_path / "a") == tmp_path / "a.replaced-1"
    assert (tmp_path / "a").read_text() == "new"
    assert put_in_place(tmp_path / "a.replaced-1", tmp_path / "c") is None


def test_aside_takes_the_first_free_number(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / "a").write_text(str(number))
        assert aside(tmp_path / "a", "damaged") == tmp_path / f"a.damaged-{number}"
    assert (tmp_path / "a.damaged-1").read_text() == "1"
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("error", "why", "remedy"),
    [
        (OSError(errno.ENOSPC, "x"), "No space left on device", "Free some space and run"),
        (OSError(errno.EDQUOT, "x"), "Disk quota exceeded", "Free some space and run"),
        (OSError(errno.EFBIG, "x"), "File too large", "raise the limit on file sizes (ulimit -f)"),
        (OSError(errno.EROFS, "x"), "Read-only file system", "Make the directory writable"),
        (PermissionError(errno.EACCES, "x"), "Permission denied", "Make the directory writable"),
        (sqlite3.OperationalError("database or disk is full"), "disk is full", "Free some space and run"),
        (sqlite3.OperationalError("disk I/O error"), "disk I/O error", "Free some space or raise the limit"),
        (sqlite3.OperationalError("unable to open database file"), "unable", "Make the directory writable"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "readonly", "Make the directory"),
        (sqlite3.OperationalError("database is locked"), "locked", "Close the program that holds it"),
        # What safetensors says for its writes, and Arrow for its own.
        (Exception("Error while serializing: I/O error: x (os error 28)"), "No space left", "Free some"),
        (Exception("I/O error: File too large (os error 27)"), "File too large", "raise the limit"),
        (Exception("[Errno 28] Error writing bytes to file"), "No space left", "Free some"),
    ],
)
def test_a_disk_that_refuses_is_explained(error: Exception, why: str, remedy: str) -> None:
    with pytest.raises(CheckpointError) as found, explained("the file"):
        raise error
    assert found.value.message.startswith("the file could not be written: ")
    assert why in found.value.message
    assert remedy in str(found.value.remedy)
    assert found.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EISDIR, "a directory"),
        ValueError("a defect"),
        RuntimeError("(os error 2)"),
        sqlite3.OperationalError("near SELCT: syntax error"),
        CheckpointError("explained already: [Errno 28]"),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as found, explained("the file"):
        raise error
    assert found.value is error
