"""Paths that users and recipes name: what is expanded, what is refused, and what is never sent to a hub."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pgrpo_cli.errors import PathError
from pgrpo_cli.paths import below, expanded, made_folder, path_of, path_or_id, shown, try_to_write


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PLACE", "place")
    monkeypatch.delenv("NOPE", raising=False)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a/b", "START/a/b"),
        ("./a", "START/a"),
        ("/a", "/a"),
        ("~", "HOME"),
        ("~/a", "HOME/a"),
        ("a/~", "START/a/~"),
        ("$PLACE/a", "START/place/a"),
        ("a/${PLACE}s", "START/a/places"),
        ("~/$PLACE", "HOME/place"),
        ("a$", "START/a$"),
        ("5$-bill", "START/5$-bill"),
    ],
)
def test_home_and_variables_are_expanded_and_the_rest_starts_at_a_folder(
    text: str, found: str, tmp_path: Path
) -> None:
    start = tmp_path / "start"
    wanted = found.replace("START", str(start)).replace("HOME", str(tmp_path / "home"))
    assert path_of(text, "--x", start) == Path(wanted)


def test_what_stands_there_as_written_is_meant(tmp_path: Path) -> None:
    (tmp_path / "$PLACE").touch()
    (tmp_path / "cost$NOPE").touch()
    assert path_of("$PLACE", "--x", tmp_path) == tmp_path / "$PLACE"
    assert path_of("cost$NOPE", "--x", tmp_path) == tmp_path / "cost$NOPE"


def test_a_value_is_not_expanded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "~$NOPE")
    assert path_of("$PLACE", "--x", tmp_path) == tmp_path / "~$NOPE"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        (" ", "is empty"),
        ("a\0b", r"a\\x00b: a path holds no NUL"),
        ("~nosuchuser/x", "there is no user 'nosuchuser'"),
        ("$NOPE/x", "the environment variable NOPE is not set"),
        ("${NOPE}", "the environment variable NOPE is not set"),
        ("a/" + "x" * 256, "256 bytes; one has at most 255"),
        ("ä" * 128, "256 bytes"),
        ("a\udcffb", r"a\\udcffb: the name is not UTF-8"),
        ("x/" * 2100, "too long for this file system"),
    ],
)
def test_what_no_file_is_called_is_refused(text: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(PathError, match=f"^--x: .*{why}") as refused:
        path_of(text, "--x", tmp_path)
    assert refused.value.remedy
    assert refused.value.exit_code == 2


def test_a_name_of_255_bytes_is_taken(tmp_path: Path) -> None:
    assert path_of("x" * 255, "--x", tmp_path).name == "x" * 255


def test_a_variable_is_checked_for_what_it_makes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PLACE", "x" * 200)
    with pytest.raises(PathError, match="400 bytes"):
        path_of("$PLACE$PLACE", "--x", tmp_path)


def test_links_in_a_circle_and_files_as_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    (tmp_path / "file").touch()
    with pytest.raises(PathError, match="links lead in a circle"):
        path_of("one", "--x", tmp_path)
    with pytest.raises(PathError, match=r"file/a/b: .*file is a file, so nothing lies below it"):
        path_of("file/a/b", "--x", tmp_path)


def test_a_folder_that_is_not_utf8_is_refused_from_within(tmp_path: Path) -> None:
    strange = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(strange)
    (tmp_path / "link").symlink_to(os.fsdecode(strange))
    with pytest.raises(PathError, match="whose name is not UTF-8"):
        path_of("link/run", "--x", tmp_path)


def test_a_working_directory_that_is_gone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(PathError, match="working directory is gone"):
        path_of("a", "--x")


def test_a_pattern_is_expanded_and_stays_one(tmp_path: Path) -> None:
    assert expanded("$PLACE/**/*.jsonl", "--x", tmp_path) == "place/**/*.jsonl"


@pytest.mark.parametrize("name", ["owner/name", "gpt2", "owner/na.me"])
def test_a_hub_id_is_no_path(name: str, tmp_path: Path) -> None:
    assert path_or_id(name, "model.id", tmp_path) is None


def test_what_is_sent_to_a_hub_holds_no_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "secret")
    # Not None, which would mean that the text goes to the hub: a path, which is looked for here alone.
    assert path_or_id("owner/$PLACE", "model.id", tmp_path) == tmp_path / "owner" / "secret"


def test_a_folder_that_is_there_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert path_or_id("owner/name", "model.id", tmp_path) == tmp_path / "owner" / "name"
    assert path_or_id("./missing", "model.id", tmp_path) == tmp_path / "missing"


@pytest.mark.parametrize("text", ["/etc/x", "~/x", "../x", "a/../../x", "."])
def test_a_recipe_writes_below_the_run_only(text: str, tmp_path: Path) -> None:
    with pytest.raises(PathError, match="below the run directory only"):
        below(text, tmp_path, "cache")


def test_a_recipe_writes_through_no_link(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "out").symlink_to(tmp_path)
    (tmp_path / "run" / "dangling").symlink_to(tmp_path / "nothing")
    assert below("cache/$PLACE", tmp_path / "run", "cache") == tmp_path / "run" / "cache" / "$PLACE"
    for text in ("out/x", "dangling"):
        with pytest.raises(PathError, match="is a link; a recipe writes through none"):
            below(text, tmp_path / "run", "cache")


def test_a_folder_is_made_with_its_parents_and_tried(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert made_folder(folder, "--x") == folder
    assert list(folder.iterdir()) == []
    made_folder(folder, "--x")


def test_a_folder_behind_a_link_is_taken_and_one_behind_a_dangling_link_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("nowhere")
    made_folder(tmp_path / "link" / "run", "--x")
    assert (tmp_path / "real" / "run").is_dir()
    with pytest.raises(PathError, match="dangling is a link to nowhere, which is not there"):
        made_folder(tmp_path / "dangling" / "run", "--x")


def test_a_file_is_no_parent(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PathError, match="file is a file"):
        made_folder(tmp_path / "file" / "run", "--x")


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder that nobody may write")
def test_a_folder_that_takes_no_file_is_refused() -> None:
    with pytest.raises(OSError) as refused:
        try_to_write(Path("/sys/kernel"))
    assert refused.value.filename == "/sys/kernel"


def test_messages_show_what_cannot_be_printed(tmp_path: Path) -> None:
    assert shown("a\x1b[31m\udcff ü") == r"a\x1b[31m\udcff ü"
