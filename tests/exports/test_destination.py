"""A folder of an export appears as a whole, or not at all; what is no export's is never replaced."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.errors import CheckpointError, ExportError
from pgrpo_cli.exports.destination import destination, refuse_foreign
from tests.support.disks import without_locks


def written(folder: Path, **files: str) -> None:
    """An export of these files."""
    with destination(folder) as temporary:
        for name, text in files.items():
            (temporary / name).write_text(text)
        record = {"made_by": "pgrpo export", "files": [*files, "export.json"]}
        (temporary / "export.json").write_text(json.dumps(record))


def test_it_appears_at_the_end_and_replaces_an_earlier_export(tmp_path: Path) -> None:
    place = tmp_path / "new" / "out"
    written(place, one="1", two="2")
    written(place, one="3")
    assert sorted(path.name for path in place.iterdir()) == ["export.json", "one"]
    assert (place / "one").read_text() == "3"
    assert [path.name for path in place.parent.iterdir()] == ["out"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    written(tmp_path / "out", one="1")
    assert (tmp_path / "out" / "one").read_text() == "1"


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), ValueError("a defect")])
def test_what_was_interrupted_leaves_nothing_and_the_earlier_export(
    tmp_path: Path, stop: BaseException
) -> None:
    written(tmp_path / "out", one="1")
    with pytest.raises(type(stop)), destination(tmp_path / "out") as temporary:
        (temporary / "one").write_text("half")
        raise stop
    assert (tmp_path / "out" / "one").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_where_the_last_rename_fails_the_earlier_export_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "out", one="1")
    rename = Path.rename

    def full(self: Path, target: Path) -> Path:
        if self.name == ".out.export":
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(CheckpointError, match="could not be written"):
        written(tmp_path / "out", one="2")
    assert (tmp_path / "out" / "one").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_of_someone_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"thesis\.txt") as caught:
        written(tmp_path / "out", one="1")
    assert caught.value.exit_code == 2
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("folder", [".", "..", "/", "out/.."])
def test_what_is_no_name_of_a_folder_is_refused(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExportError, match="is no name of a folder") as caught:
        written(Path(folder), one="1")
    assert caught.value.exit_code == 2 and "exported" in str(caught.value.remedy)
    assert not any(tmp_path.iterdir())


def test_a_name_that_leaves_no_room_for_a_longer_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="name has 250 bytes"):
        refuse_foreign(tmp_path / ("n" * 250))
    written(tmp_path / ("é" * 100), one="1")


def test_a_file_put_beside_an_export_is_not_replaced(tmp_path: Path) -> None:
    written(tmp_path / "out", one="1")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"notes\.txt"):
        written(tmp_path / "out", one="2")
    assert (tmp_path / "out" / "one").read_text() == "1"


def test_a_link_and_a_file_are_no_place(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "file").write_text("mine")
    for name in ("link", "file"):
        with pytest.raises(ExportError, match="is no folder"):
            written(tmp_path / name, one="1")
    assert not any((tmp_path / "elsewhere").iterdir())


def test_a_full_disk_is_a_message(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No space left"), destination(tmp_path / "out"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not any(tmp_path.iterdir())


ROOT = Path(__file__).parents[2]
KILLED = """
import os, sys, signal
from pathlib import Path
from pgrpo_cli.exports import destination
from tests.exports.test_destination import written
def kill(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)
place, name = sys.argv[2].rsplit(".", 1)
setattr(destination if place == "destination" else Path, name, kill)
written(Path(sys.argv[1]), one="1")
"""


@pytest.mark.parametrize(
    "place", ["destination._locked", "Path.write_text", "destination.sync_tree", "Path.rename"]
)
def test_what_a_killed_export_left_is_removed_by_the_next(tmp_path: Path, place: str) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "out"), place], cwd=ROOT, check=False)
    assert [path.name for path in tmp_path.iterdir()] == [".out.export"]
    written(tmp_path / "out", two="2")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_two_exports_do_not_write_one_folder(tmp_path: Path) -> None:
    with destination(tmp_path / "out"), pytest.raises(ExportError, match="another export"):
        written(tmp_path / "out", two="2")


def test_what_is_in_the_way_stays(tmp_path: Path) -> None:
    (tmp_path / ".out.export").mkdir()
    (tmp_path / ".out.export" / "mine").write_text("mine")
    # Before anything is computed.
    with pytest.raises(ExportError, match="in the way"):
        refuse_foreign(tmp_path / "out")
    with pytest.raises(ExportError, match="in the way"):
        written(tmp_path / "out", two="2")
    assert (tmp_path / ".out.export" / "mine").exists()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr("fcntl.flock", without_locks(number))
    written(tmp_path / "out", one="1")
    assert (tmp_path / "out" / "one").read_text() == "1"


def test_a_folder_that_cannot_get_its_lock_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def full(path: Path, *rest: Any) -> int:
        if str(path).endswith("/.pgrpo-export"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(path, *rest)

    monkeypatch.setattr("os.open", full)
    with pytest.raises(CheckpointError, match="No space left"):
        written(tmp_path / "out", one="1")
    assert list(tmp_path.iterdir()) == []
