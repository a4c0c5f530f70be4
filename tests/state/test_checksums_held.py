"""Folders that are read are held: by a lock that another process sees, and that ends with its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgrpo_cli.state.checksums import hold, unheld


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "step").mkdir()
    (tmp_path / "step" / "checksums.json").write_text("{}")
    return tmp_path / "step"


def is_free(folder: Path) -> bool:
    with unheld(folder) as free:
        return free


def test_a_folder_is_held_by_several_until_the_last_lets_go(folder: Path) -> None:
    assert is_free(folder)
    one, two = hold(folder), hold(folder)
    assert one and two
    one.close()
    assert not is_free(folder)
    two.close()
    assert is_free(folder)


def test_what_is_being_dropped_cannot_be_held(folder: Path) -> None:
    with unheld(folder) as free:
        assert free
        assert hold(folder) is None
    assert hold(folder) is not None


def test_a_folder_that_is_gone_or_without_checksums_holds_nobody_up(tmp_path: Path) -> None:
    assert hold(tmp_path) is None
    assert is_free(tmp_path)
    assert is_free(tmp_path / "gone")
