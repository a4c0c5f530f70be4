"""What nobody foresaw: one line, a file with the trace, and exit code 1."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.training import write_tiny

FAILING = """
import sys
from pgrpo_cli.cli import process
from pgrpo_cli.verbs import prepare
import pgrpo_cli.recipe.load

def fail(*arguments, **options):
    try:
        raise KeyError("deep inside \\x1b[2J")
    except KeyError as cause:
        raise {raised} from cause

{place} = fail
sys.argv = ["pgrpo", *{words!r}]
process.run()
"""


def failing(
    folder: Path, *words: str, raised: str, place: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A process in which the function at `place` raises."""
    script = FAILING.format(raised=raised, place=place, words=list(words))
    where = {**os.environ, "TMPDIR": str(folder), **environment}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=where, cwd=folder)


RAISED = {
    "a library's": ("ValueError('first line [/x]\\nsecond line')", r"ValueError: first line \[/x\]"),
    "without words": ("ZeroDivisionError", "ZeroDivisionError"),
    "the disk's": ("OSError(5, 'Input/output error', 'x')", r"OSError: \[Errno 5\] Input/output error: 'x'"),
    "out of memory": ("MemoryError", "MemoryError"),
    "a file's end": ("EOFError('truncated')", "OSError: a file ends too soon: truncated"),
    "very long": ("ValueError('y' * 10**6)", "ValueError: y{488}"),
}


@pytest.mark.parametrize("raised", RAISED)
def test_a_failure_is_one_line_and_a_file(tmp_path: Path, raised: str) -> None:
    recipe, (expression, cause) = write_tiny(tmp_path), RAISED[raised]
    place = "pgrpo_cli.recipe.load.load_recipe"
    done = failing(tmp_path, "validate", str(recipe), raised=expression, place=place)
    assert (done.returncode, done.stdout) == (1, "")
    says = rf"error: `pgrpo validate \S+tiny.yaml` failed: {cause}\n  The whole trace is in (\S+)\.\n"
    told = re.fullmatch(says, done.stderr)
    assert told, done.stderr
    trace = Path(told[1]).read_text(encoding="utf-8")
    assert Path(told[1]).parent == tmp_path
    assert "Traceback (most recent call last)" in trace
    assert "The above exception was the direct cause" in trace
    assert r"KeyError: 'deep inside \x1b[2J'" in trace and "\x1b" not in trace
    assert f"pgrpo validate {recipe}" in trace


def test_the_trace_lies_in_the_run_if_there_is_one(tmp_path: Path) -> None:
    for number in (1, 2):
        done = failing(
            tmp_path, "prepare", str(write_tiny(tmp_path)), "--run-dir", "run",
            raised=f"ValueError({number})", place="prepare.prepare_data",
        )  # fmt: skip
        assert done.returncode == 1
        assert done.stderr.endswith("  The whole trace is in run/traceback.txt.\n")
        assert f"ValueError: {number}\n" in (tmp_path / "run" / "traceback.txt").read_text()


def test_no_link_in_a_strangers_run_leads_the_trace_elsewhere(tmp_path: Path) -> None:
    words, raised = ("prepare", str(write_tiny(tmp_path)), "--run-dir", "run"), "ValueError(1)"
    failing(tmp_path, *words, raised=raised, place="prepare.prepare_data")
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "run" / "traceback.txt").unlink()
    (tmp_path / "run" / "traceback.txt").symlink_to(tmp_path / "mine")
    done = failing(tmp_path, *words, raised=raised, place="prepare.prepare_data")
    assert done.returncode == 2 and "traceback.txt" in done.stderr
    assert (tmp_path / "mine").read_text() == "precious"


def test_where_no_file_can_be_written_the_line_stays(tmp_path: Path) -> None:
    # Python takes the folder for temporary files that it can write to, so that there is none only for a disk
    # that is full; a limit of 0 bytes on files does the same.
    script = f'ulimit -f 0; exec {sys.executable} -c "$SCRIPT"'
    code = FAILING.format(
        raised="ValueError(1)", place="pgrpo_cli.recipe.load.load_recipe", words=["validate", "x.yaml"]
    )
    done = subprocess.run(
        ["bash", "-c", f"trap '' XFSZ; {script}"], capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, "SCRIPT": code, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == 1
    assert "failed: ValueError: 1\n  No file could be written for the trace.\n" in done.stderr
    assert os.strerror(errno.EFBIG) not in done.stderr
