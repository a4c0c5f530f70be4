"""Tables of which nearly all rows are broken, and files that unpack to gigabytes."""

import gzip
import json
import resource
import subprocess
import sys
import zipfile

import pytest

from pgrpo_cli.data.losses import require_few_broken
from pgrpo_cli.data.sources import tables
from pgrpo_cli.data.sources.context import ReadContext
from pgrpo_cli.data.sources.generic import read_jsonl
from pgrpo_cli.errors import DataError
from pgrpo_cli.recipe.data import DataSection
from pgrpo_cli.recipe.sources import JsonlSource

GOOD = json.dumps({"prompt": "Hi", "preference_group": "a"}) + "\n"


def read(folder, text, share=0.05):
    (folder / "rows.jsonl").write_text(text)
    return read_jsonl(JsonlSource(path="rows.jsonl"), ReadContext(folder, max_rejected_share=share))


def test_a_file_of_which_most_rows_are_broken_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MANY", 100)
    # 60 good rows; from the 100th broken one on, 100 of 160 are more than half.
    data = read(tmp_path, GOOD * 60 + "{\n" * 1000)
    assert (len(data.train), len(data.rejected), data.rows) == (60, 100, {"rows.jsonl": 160})
    assert data.given_up
    section = DataSection.model_validate({"source": {"type": "jsonl", "path": "x"}})
    with pytest.raises(DataError, match=r"^the first rows: 100 of 160 rows are broken \(62\.5%\)"):
        require_few_broken(data, section)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        # 100 of 200 are no more than half, 99 are not many, and the recipe may pass 90 %.
        (GOOD * 100 + "{\n" * 100, 0.05),
        (GOOD + "{\n" * 99, 0.05),
        (GOOD * 20 + "{\n" * 180, 0.9),
    ],
)
def test_other_files_are_read_to_their_end(tmp_path, monkeypatch, text, share):
    monkeypatch.setattr(tables, "MANY", 100)
    data = read(tmp_path, text, share)
    assert not data.given_up
    assert len(data.train) + len(data.rejected) == text.count("\n")


MEMBER = gzip.compress(b"x" * (64 << 20), 9)
"""64 MiB; gzip goes on with the next member where one ends."""
GIGABYTES = 48
SCRIPT = """
import json, sys
from pathlib import Path
from pydantic import TypeAdapter
from pgrpo_cli.data.sources import SOURCES
from pgrpo_cli.data.sources.context import ReadContext
from pgrpo_cli.errors import DataError
from pgrpo_cli.recipe.sources import Source

section = TypeAdapter(Source).validate_python(json.loads(sys.argv[2]))
try:
    SOURCES[section.type](section, ReadContext(Path(sys.argv[1])))
except DataError as error:
    print(error)
"""


def limited():
    resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))


def told(folder, **section):
    """What reading says, within 10 seconds of CPU time and 2 GiB."""
    command = [sys.executable, "-c", SCRIPT, str(folder), json.dumps(section)]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limited)
    assert done.returncode == 0, done.stderr
    return done.stdout


HEADER = "prompt,preference_group\nHi,a\n"
BOMBS = {
    "a line": ("jsonl", GOOD + '{"prompt": "', 2),
    "an item": ("jsonl", '[{"prompt": "', 1),
    "an indented object": ("jsonl", '{\n"prompt": "', 1),
    "a row": ("csv", HEADER, 3),
    "a quoted cell": ("csv", HEADER + '"', 3),
    "a header": ("csv", "", 1),
    "a row of a set": ("ultrafeedback", "", 1),
    "a review": ("goodreads", "", 1),
}


@pytest.mark.parametrize(("kind", "start", "line"), BOMBS.values(), ids=BOMBS)
def test_three_gigabytes_in_one_row_end_with_a_message(tmp_path, kind, start, line):
    name = {"csv": "rows.csv.gz", "goodreads": "rows.json.gz"}.get(kind, "rows.jsonl.gz")
    with open(tmp_path / name, "wb") as file:
        file.write(gzip.compress(start.encode()))
        for _ in range(GIGABYTES):
            file.write(MEMBER)
    message = told(tmp_path, type=kind, path=name)
    assert f"{name}:{line}: the row has more than 16,777,216 characters" in message


@pytest.mark.parametrize("table", ["ratings", "movies"])
def test_gigabytes_in_one_line_of_movielens_end_with_a_message(tmp_path, table):
    texts = {
        "ratings": "userId,movieId,rating,timestamp\n1,1,4.0,100\n",
        "movies": "movieId,title,genres\n1,A (1990),Action\n",
    }
    with zipfile.ZipFile(tmp_path / "ml.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, text in texts.items():
            with archive.open(f"ml/{name}.csv", "w") as file:
                file.write(text.encode())
                for _ in range(3 if name == table else 0):
                    file.write(b"1" * (64 << 20))
    assert f"ml.zip/ml/{table}.csv:3 has no end within 64 MiB" in told(
        tmp_path, type="movielens", path="ml.zip"
    )
