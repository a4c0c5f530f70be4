"""Checks run in a process of their own: whatever one does, the others have their results."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.selfcheck import child as child_module
from pgrpo_cli.selfcheck.child import Child
from pgrpo_cli.selfcheck.results import CheckResult
from pgrpo_cli.selfcheck.runner import Checkup
from tests.support import selfcheck_worker

NAMES = ("versions", "device", "rates", "model")
SCRIPT = Path(selfcheck_worker.__file__)


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(SCRIPT.parents[2]))


def checkup(deeds: str, **options: Any) -> Checkup:
    return Checkup(NAMES, command=(sys.executable, "-P", str(SCRIPT), deeds), **options)


def results(deeds: str, **options: Any) -> dict[str, CheckResult]:
    found = list(checkup(deeds, **options).results())
    assert [result.name for result in found] == list(NAMES)
    return {result.name: result for result in found}


def statuses(found: dict[str, CheckResult]) -> str:
    return " ".join(result.status for result in found.values())


def test_results_come_back_whatever_the_checks_print() -> None:
    found = results("device:noisy,rates:wrong,model:skip")
    assert statuses(found) == "ok ok failed skipped"
    # Not a number is null in JSON.
    assert found["device"].found == selfcheck_worker.RATES.model_copy(update={"float32_rate": None})
    assert found["rates"].found is not None and found["rates"].reason == "the rates are wrong"
    assert found["model"].reason == "needs a GPU" and found["model"].found is None


def test_a_check_that_raises_is_a_line_and_a_trace() -> None:
    found = results("device:out_of_memory,rates:illegal,model:illegal_late")
    assert statuses(found) == "ok failed failed failed"
    # Work of the device fails when it is done, not when it is given.
    assert "device-side assert" in str(found["model"].reason) and found["model"].found is None
    # Running out of memory is no defect: the line says all.
    assert found["device"].reason is not None and found["device"].trace is None
    assert found["device"].reason.startswith("RuntimeError: CUDA error: out of memory")
    assert "illegal memory access" in str(found["rates"].reason)
    assert "selfcheck_worker.py" in str(found["rates"].trace)


@pytest.mark.parametrize(
    ("deed", "reason"),
    [
        ("kill", "its process was ended by SIGSEGV; it printed last: device-side assert triggered"),
        ("leave", "its process ended with code 7"),
    ],
)
def test_a_check_that_ends_its_process_takes_no_other_with_it(deed: str, reason: str) -> None:
    found = results(f"device:{deed},model:{deed}")
    assert statuses(found) == "ok failed ok failed"
    assert found["device"].reason == found["model"].reason == reason


def test_a_check_that_hangs_is_ended() -> None:
    found = results("device:hang", limit=1.0)
    assert statuses(found) == "ok failed ok ok"
    assert found["device"].reason == "it took longer than 1 s and was ended"
    assert 1.0 <= found["device"].seconds < 5


def test_after_the_deadline_no_check_begins() -> None:
    started = time.monotonic()
    found = results("rates:hang", seconds=2.0)
    assert time.monotonic() - started < 10
    assert statuses(found) == "ok ok skipped skipped"
    assert found["rates"].reason == "the time for all checks was over while it ran"
    assert found["model"].reason == "the time for all checks was over"
    assert statuses(results("", seconds=0.0)) == "skipped skipped skipped skipped"


def test_where_no_process_starts_it_is_said_once() -> None:
    found = results("start:fails")
    assert statuses(found) == "failed skipped skipped skipped"
    assert found["versions"].reason == (
        "no process for the checks starts: its process ended with code 1; it printed last: "
        "ImportError: libcudart.so.13: cannot open shared object file"
    )


def test_a_later_process_knows_what_failed_in_an_earlier_one(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = []

    class Recorded(Child):
        def __init__(self, command: Any) -> None:
            jobs.append(command[-1])
            super().__init__(command)

    monkeypatch.setattr("pgrpo_cli.selfcheck.runner.Child", Recorded)
    results("rates:illegal")
    assert '"failed": {}' in jobs[0] and '"failed": {"rates": "RuntimeError: CUDA' in jobs[1]
    assert '"names": ["model"]' in jobs[1]


def test_a_result_is_there_before_the_next_check_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = []

    class Heard(Child):
        def line(self, seconds: float) -> str | None:
            lines.append(super().line(seconds) or "nothing")
            return lines[-1]

    monkeypatch.setattr("pgrpo_cli.selfcheck.runner.Child", Heard)
    for count, result in enumerate(checkup("").results(), 1):
        assert result.name == NAMES[count - 1] and sum('"begin"' in line for line in lines) == count


def test_a_checkup_that_is_left_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = []

    class Remembered(Child):
        def __init__(self, command: Any) -> None:
            super().__init__(command)
            processes.append(self._process.pid)

    monkeypatch.setattr("pgrpo_cli.selfcheck.runner.Child", Remembered)
    going = checkup("device:hang").results()
    assert next(going).name == "versions"
    going.close()
    (pid,) = processes
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_line_is_whole_or_none() -> None:
    words = "import os, sys; os.write(int(sys.argv[1]), b'one\\ntwo')"
    with Child([sys.executable, "-c", words]) as child:
        assert child.line(30) == "one"
        assert child.line(30) is None and child.ended
        assert child.cause() == "its process ended with code 0"


def test_only_the_end_of_what_a_process_printed_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "_LOG_BYTES", 10)
    with Child([sys.executable, "-c", "print('x' * 100); print('the end'); raise SystemExit(3)"]) as child:
        assert child.line(30) is None
        assert child.cause() == "its process ended with code 3; it printed last: the end"
