"""`python -m pgrpo_cli`, and the processes that a command starts, in a folder of a stranger's modules."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import pgrpo_cli
import pgrpo_cli.cli.process
from tests.support.training import write_tiny

NAMES = ("typer", "rich", "torch", "yaml", "numpy", "logging", "signal", "sitecustomize", "usercustomize")
"""`python -m` itself imports a few of the standard library before any module of ours can say a word, such as
`types` and `warnings`: `pgrpo`, and `python -P -m pgrpo_cli`, do not."""


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name in NAMES:
        marker = str(tmp_path / f"ran-{name}")
        (folder / f"{name}.py").write_text(f"open({marker!r}, 'w').close()\nraise SystemExit(99)\n")
    return folder


def run_in(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(pgrpo_cli.__file__).parents[1])}
    environment.pop("PYTHONSAFEPATH", None)
    return subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False, env=environment
    )


def ran(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.parent.glob("ran-*"))


def test_the_modules_would_run_but_for_that(hostile: Path) -> None:
    assert run_in(hostile, "-c", "import typer").returncode == 99
    assert ran(hostile) == ["ran-typer"]


@pytest.mark.parametrize("options", [["-m"], ["-P", "-m"]], ids=" ".join)
def test_a_command_runs_no_module_of_the_folder_that_it_is_started_in(
    hostile: Path, options: list[str]
) -> None:
    done = run_in(hostile, *options, "pgrpo_cli", "validate", str(write_tiny(hostile)))
    assert (done.returncode, done.stderr) == (0, "")
    assert ran(hostile) == []


def test_neither_do_the_runs_of_a_sweep(hostile: Path) -> None:
    recipe = write_tiny(hostile, data={"source": {"type": "jsonl", "path": "missing.jsonl"}})
    done = run_in(hostile, "-P", "-m", "pgrpo_cli", "sweep", recipe.name, "--seeds", "1")
    # The run got as far as its data.
    assert "missing.jsonl" in done.stderr and "ended with exit code 2" in done.stderr
    assert ran(hostile) == []


CHILD_OF_A_LIBRARY = """
import sys
from pgrpo_cli.cli import app, process

def command(prog_name):
    import subprocess
    sys.exit(subprocess.run([sys.executable, "-c", "import typer"]).returncode)

app.app = command
process.run()
"""


def test_neither_do_the_children_of_libraries(hostile: Path) -> None:
    assert run_in(hostile, "-P", "-c", CHILD_OF_A_LIBRARY).returncode == 0
    assert ran(hostile) == []


def test_the_command_is_the_module() -> None:
    root = Path(__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    module, _, name = project["scripts"]["pgrpo"].partition(":")
    assert getattr(importlib.import_module(module), name) is pgrpo_cli.cli.process.run


def test_what_the_user_put_on_the_path_stays(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise SystemExit(99)")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "pgrpo_cli", "--version"]
    assert subprocess.run(command, cwd=tmp_path, env=environment, check=False).returncode == 99
