"""Measurements in processes of their own: one that dies is a result, and costs no other."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import step_time
from benchmarks.processes import FAILED, keep, measured_by, output_of


def python(source: str) -> list[str]:
    return [sys.executable, "-c", source]


def test_the_last_line_is_the_result() -> None:
    assert measured_by(python("print('progress'); print('{\"seconds\": 2}')")) == {"seconds": 2}


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended by SIGKILL, as the kernel does"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "ended by SIGTERM"),
        ("raise SystemExit(3)", "exit code 3"),
        ("print('{\"seconds\": 2}'); raise SystemExit(3)", "exit code 3"),
        ("pass", "it printed no result"),
        ("print('no JSON')", "it printed no result"),
        ("print('[2]')", "it printed no result"),
    ],
)
def test_a_process_that_dies_is_a_result(source: str, why: str) -> None:
    found = measured_by(python(source))
    assert list(found) == [FAILED]
    assert found[FAILED].startswith(why)


def test_what_a_process_printed_before_it_died_is_there() -> None:
    assert output_of(python("print('half', flush=True); raise SystemExit(1)")) == ("half\n", "exit code 1")


def test_a_side_that_was_killed_keeps_the_other_side(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """TRL's side is killed, ours is measured: both stand in the file and in the table, without ratios."""
    result = {"seconds": {"total": [9.0, 2.0, 4.0], "rollout": [3.0, 1.0, 1.0]}, "peak_mb": 100.4}
    sides = tmp_path / "sides.py"
    sides.write_text(
        "import json, os, signal, sys\n"
        "if json.loads(sys.argv[1])['side'] == 'trl': os.kill(os.getpid(), signal.SIGKILL)\n"
        f"print(json.dumps({result!r}))\n"
    )
    monkeypatch.setattr(step_time, "SIDES", sides)
    kept = tmp_path / "step_time.json"
    arguments = ["step_time.py", "--shapes", "short", "--beta", "0", "--json", str(kept)]
    monkeypatch.setattr(sys, "argv", arguments)
    step_time.main()
    shape = json.loads(kept.read_text())["shapes"]["short"]
    # The first step is the warm-up; the median of 2 and 4 is 3.
    assert (shape["ours"]["seconds"], shape["ours"]["peak_mb"]) == (3.0, 100)
    assert shape["trl"][FAILED].startswith("ended by SIGKILL")
    assert "speedup" not in shape
    assert "failed" in capsys.readouterr().out.splitlines()[-1]


def test_results_are_kept_only_where_asked(tmp_path: Path) -> None:
    keep(None, {"a": 1})
    keep(tmp_path / "kept.json", {"a": 1})
    assert json.loads((tmp_path / "kept.json").read_text()) == {"a": 1}
