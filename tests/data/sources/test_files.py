"""The files that `data.source.path` names, and how they are called."""

import json
import os
import time
from pathlib import Path

import pytest

from pgrpo_cli.data.prepared import read_manifest
from pgrpo_cli.data.sources import SOURCES
from pgrpo_cli.data.sources.context import ReadContext
from pgrpo_cli.data.sources.files import file_name, matching_files
from pgrpo_cli.errors import DataError, PgrpoError
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.verbs.prepare import prepare_data
from tests.support.tokenizer import byte_tokenizer


def found(folder, pattern):
    return [file_name(path, folder) for path in matching_files("path", pattern, folder)]


def write(folder, *names):
    for name in names:
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(b"")


TREE = ("a.txt", "x/b.txt", "x/y/c.txt", "x/y/z/d.txt", ".hidden/e.txt", "x/.f.txt")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.txt", ["a.txt"]),
        ("*/*.txt", ["x/b.txt"]),
        ("**/*.txt", ["a.txt", "x/b.txt", "x/y/c.txt", "x/y/z/d.txt"]),
        ("**/**/*.txt", ["a.txt", "x/b.txt", "x/y/c.txt", "x/y/z/d.txt"]),
        ("**", ["a.txt", "x/b.txt", "x/y/c.txt", "x/y/z/d.txt"]),
        ("x/**/z/*.txt", ["x/y/z/d.txt"]),
        ("**/y/**/*.txt", ["x/y/c.txt", "x/y/z/d.txt"]),
        ("x/**/c.txt", ["x/y/c.txt"]),
        (".hidden/*.txt", [".hidden/e.txt"]),
        ("./x/../*.txt", ["a.txt"]),
    ],
)
def test_patterns(tmp_path, pattern, names):
    write(tmp_path, *TREE)
    assert found(tmp_path, pattern) == names
    # An absolute pattern, from another folder.
    assert [str(path) for path in matching_files("path", str(tmp_path / pattern), tmp_path / "x")] == [
        str(path) for path in matching_files("path", pattern, tmp_path)
    ] or ".." in pattern


def test_the_recipes_folder_is_no_pattern(tmp_path):
    write(tmp_path, "run[1]/a.txt", "run1/b.txt")
    assert found(tmp_path / "run[1]", "*.txt") == ["a.txt"]


def test_links_that_lead_in_a_circle_end(tmp_path):
    write(tmp_path, "loop/a.txt")
    # Followed, two links to the folder itself would be 2^40 paths before the system refuses more links.
    (tmp_path / "loop" / "b").symlink_to(".")
    (tmp_path / "loop" / "c").symlink_to(".")
    (tmp_path / "self").symlink_to("self")
    start = time.process_time()
    assert found(tmp_path, "**/*.txt") == ["loop/a.txt"]
    assert time.process_time() - start < 1
    with pytest.raises(DataError, match="no file matches"):
        found(tmp_path, "self")


def test_a_folder_that_is_a_link_is_gone_into_where_it_is_named(tmp_path):
    write(tmp_path, "real/x/a.txt")
    (tmp_path / "link").symlink_to("real")
    assert found(tmp_path, "link/**/*.txt") == ["link/x/a.txt"]
    assert found(tmp_path, "*/x/*.txt") == ["link/x/a.txt", "real/x/a.txt"]


def recipe(**source):
    return Recipe.model_validate(
        {
            "name": "test",
            "model": {"id": "random"},
            "data": {"source": {"type": "jsonl", **source}},
            "rewards": [{"type": "length", "max": 5}],
            "rollout": {"max_completion_tokens": 16},
        }
    )


@pytest.mark.parametrize(("name", "shown"), [(b"r\xe9ws", "r\\udce9ws"), (b"r\x1b[31m\n", "r\\x1b[31m\\n")])
def test_names_that_cannot_be_printed_are_escaped_everywhere(tmp_path, name, shown):
    folder = os.fsencode(tmp_path) + b"/" + name
    os.mkdir(folder)
    rows = [{"prompt": f"Hi {n}", "preference_group": "a"} for n in range(40)]
    with open(folder + b"/rows.jsonl", "w") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows) + "{\n")
    report = prepare_data(recipe(path="r*/rows.jsonl"), tmp_path / "run", tmp_path, byte_tokenizer())
    assert read_manifest(tmp_path / "run")["sources"][0]["name"] == f"{shown}/rows.jsonl"
    (row,) = map(json.loads, report.rejected_path.read_text().splitlines())
    assert (row["file"], row["line"]) == (f"{shown}/rows.jsonl", 41)
    os.rename(folder + b"/rows.jsonl", folder + b"/rows.parquet.gz")
    with pytest.raises(DataError) as caught:
        prepare_data(recipe(path="r*/rows.parquet.gz"), tmp_path / "run", tmp_path, byte_tokenizer())
    assert shown in str(caught.value)
    assert str(caught.value).isascii()


TYPES = [kind for kind in SOURCES if kind != "personas"]
NAMES = ["~nosuchuser/x", "self", "[", "a" * 200 + "/" + "b" * 200, "file/x"]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_path_is_an_error_of_every_source(tmp_path, kind, name):
    write(tmp_path, "file")
    (tmp_path / "self").symlink_to("self")
    section = recipe(type=kind, path=name).data.source
    with pytest.raises(PgrpoError) as caught:
        SOURCES[kind](section, ReadContext(Path(tmp_path)))
    assert caught.value.exit_code == 2
    assert caught.value.remedy


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(
    ("name", "words"), [("a\0*.x", "holds no NUL character"), ("x" * 300 + "*", "one has at most 255")]
)
def test_what_names_nothing_on_any_disk_is_an_error_of_the_recipe_or_the_source(tmp_path, kind, name, words):
    with pytest.raises(ValueError, match=words):
        SOURCES[kind](recipe(type=kind, path=name).data.source, ReadContext(tmp_path))
