"""A command whose standard streams are closed, full, gone, or know few characters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pgrpo_cli.state.history_store import GroupRow, HistoryStore
from tests.support.runs import make_run, recipe_of

PGRPO = f"env -u PYTHONUNBUFFERED {sys.executable} -m pgrpo_cli"
NAMES = ("often", "é", "日本語")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with reward histories of three preference groups."""
    made = make_run(tmp_path_factory.mktemp("runs") / "run", recipe_of())
    with HistoryStore(made.history_path) as store:
        store.record_step([], [GroupRow(name, 4.0, 0.5, 0.1, 1, 1, 1, None, None) for name in NAMES])
    return made.path


def shell(script: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a script in which `pgrpo` is the command."""
    words = ["bash", "-c", f'pgrpo() {{ {PGRPO} "$@"; }}; set -o pipefail; {script}']
    return subprocess.run(words, capture_output=True, check=False, env={**os.environ, **environment})


@pytest.mark.parametrize("command", ["schema", "recipes", "groups RUN", "groups RUN --json", "--help"])
def test_a_reader_that_leaves_early_causes_no_traceback(command: str, run: Path) -> None:
    # Some output is larger than a buffer, other is written only when it is flushed. The sleep outlives the
    # reader, so that the first write meets a closed pipe.
    done = shell(f"(sleep 0.2; pgrpo {command.replace('RUN', str(run))}) | true")
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize(
    ("streams", "code"),
    [(">&-", 0), ("2>&-", 0), ("<&- >&- 2>&-", 0), (">/dev/full", 1), ("2>/dev/full", 0)],
)
@pytest.mark.parametrize("command", ["schema", "groups RUN", "--help"])
def test_streams_that_take_nothing_cause_no_traceback(
    streams: str, code: int, command: str, run: Path
) -> None:
    done = shell(f"pgrpo {command.replace('RUN', str(run))} {streams}")
    assert done.returncode == code
    assert (b"error: No space left on device" in done.stderr) == (code == 1)
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr


@pytest.mark.parametrize(
    "script", ["pgrpo recipes 2>/dev/full", "(sleep 0.2; pgrpo recipes) 2>&1 >/dev/null | true"]
)
def test_notes_that_nobody_reads_stop_nothing(script: str) -> None:
    assert shell(script).returncode == 0


OPENS_A_FILE = """
import os
from pgrpo_cli.cli.process import open_streams
open_streams()
file = open("/dev/zero")
os.write(2, str(file.fileno()).encode())
print("nothing")
"""


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    # Otherwise the next file that is opened would be number 0 or 1, and what is printed would land in it.
    (tmp_path / "script.py").write_text(OPENS_A_FILE)
    done = shell(f"{sys.executable} {tmp_path}/script.py >&- <&-")
    assert done.stderr == b"3"


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_characters_that_an_encoding_lacks_are_escapes(encoding: str, run: Path) -> None:
    done = shell(f"pgrpo groups {run}", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    names = [line.split()[0] for line in done.stdout.decode(encoding).splitlines()[1:4]]
    lacks = {"latin-1": "日本語", "ascii": "é日本語", "utf-8": ""}[encoding]
    told = [name.encode("ascii", "backslashreplace").decode() if name in lacks else name for name in NAMES]
    assert names == told


@pytest.mark.parametrize("encoding", ["utf-8:strict", "utf-8:surrogateescape", "ascii"])
def test_a_byte_that_is_no_text_is_read_as_a_character(encoding: str) -> None:
    script = (
        "import sys; from pgrpo_cli.cli.process import open_streams as o; o(); print(ascii(sys.stdin.read()))"
    )
    done = shell(f"printf 'caf\\xe9' | {sys.executable} -c '{script}'", PYTHONIOENCODING=encoding)
    assert done.stdout == rb"'caf\ufffd'" + b"\n"


def test_a_message_is_read_by_a_terminal_that_knows_few_characters() -> None:
    done = shell("pgrpo train 日本語.yaml", PYTHONIOENCODING="latin-1")
    assert done.returncode == 2
    assert rb"\u65e5\u672c\u8a9e.yaml: there is no such file" in done.stderr
