"""Every command that works for longer than a second, and every signal that asks it to stop, once and twice.

Processes are real, their model is tiny. The unmarked cases are one of each kind; `slow` has all others.
"""

from __future__ import annotations

import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import KillPoint, Process
from tests.support.training import outcome, pgrpo, steps_in, trained, write_tiny

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
SHORT = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "stopped by SIGTERM",
    signal.SIGHUP: "stopped by SIGHUP",
}

HANGS = """
import time
from pathlib import Path
here = Path(__file__).parent
calls = []

def reward(prompts, completions, **columns):
    calls.append(1)
    if (here / "hang").exists() and len(calls) == int((here / "hang").read_text()):
        (here / "hangs").touch()
        while not (here / "go").exists():
            time.sleep(0.01)
    return [float(len(c)) for c in completions]
"""
"""A reward whose call of the number in the file `hang` waits for the file `go`."""


@pytest.fixture(scope="session")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an uninterrupted run leaves."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    trained(hanging(folder), folder / "run", "--allow-code")
    return outcome(folder / "run")


def hanging(folder: Path) -> Path:
    (folder / "mine.py").write_text(HANGS)
    evaluation = {"num_completions": 2, "bootstrap_samples": 100}
    (folder / "mine.py").write_text(HANGS)
    (folder / "held-out.jsonl").write_text('{"prompt": "?", "preference_group": "often"}\n')
    source = {"type": "jsonl", "path": "rows.jsonl", "eval_path": "held-out.jsonl"}
    rewards = [{"type": "python", "file": "mine.py"}]
    return write_tiny(folder, rewards=rewards, eval=evaluation, data={"source": source})


def start(folder: Path, *words: object, call: int, ignored: tuple[int, ...] = ()) -> Process:
    """A process whose reward hangs in that call."""
    (folder / "hang").write_text(str(call))
    process = Process(folder, *words, "--allow-code", ignored=ignored)
    process.wait_until((folder / "hangs").exists)
    return process


def cases(*, once: tuple[str, ...]) -> list[Any]:
    """All signals; those named are unmarked."""
    return [
        pytest.param(signum, id=signum.name, marks=[] if signum.name in once else pytest.mark.slow)
        for signum in SIGNALS
    ]


def no_trace(process: Process) -> None:
    for text in ("Traceback", "Exception ignored", "never awaited"):
        assert text not in process.stderr


def goes_on(folder: Path, run: Path, whole: dict[str, Any], step: int) -> None:
    """The same command completes the run; it stopped after that step."""
    (folder / "hang").unlink()
    result = pgrpo("train", folder / "tiny.yaml", "--run-dir", run, "--allow-code")
    assert result.stdout.startswith(f"resumed from step {step}\n")
    ours = outcome(run)
    # A stop makes a checkpoint of its own.
    assert {**ours, "checkpoints": 0} == {**whole, "checkpoints": 0}


@pytest.mark.parametrize("signum", cases(once=("SIGTERM", "SIGHUP")))
def test_training_finishes_its_step_and_saves(
    tmp_path: Path, _finished: dict[str, Any], signum: signal.Signals
) -> None:
    run = tmp_path / "run"
    process = start(tmp_path, "train", hanging(tmp_path), "--run-dir", run, call=3)
    process.send(signum)
    process.wait_until(lambda: "stopping after this step" in process.stderr)
    (tmp_path / "go").touch()
    assert process.wait() == CODES[signum]
    assert "stopped after step 3 of 6; everything is saved" in process.stderr
    assert "Go on with: pgrpo train" in process.stderr
    no_trace(process)
    goes_on(tmp_path, run, _finished, 3)


@pytest.mark.parametrize("second", cases(once=("SIGHUP",)))
@pytest.mark.parametrize("first", cases(once=("SIGTERM",)))
def test_a_second_one_of_any_kind_stops_training_at_once(
    tmp_path: Path, _finished: dict[str, Any], first: signal.Signals, second: signal.Signals
) -> None:
    run = tmp_path / "run"
    process = start(tmp_path, "train", hanging(tmp_path), "--run-dir", run, call=4)
    process.send(first)
    process.wait_until(lambda: "stopping after this step" in process.stderr)
    process.send(second)
    assert process.wait(timeout=60) == CODES[second]
    assert "stopped at once; everything up to the last checkpoint is saved" in process.stderr
    no_trace(process)
    assert steps_in(run) == ["step-000002"]
    goes_on(tmp_path, run, _finished, 2)


@pytest.mark.parametrize(
    "ignored",
    [
        pytest.param((signal.SIGHUP,), id="nohup"),
        pytest.param((signal.SIGINT,), id="background job", marks=pytest.mark.slow),
    ],
)
def test_what_the_parent_ignores_disturbs_nothing_and_sigterm_still_stops(
    tmp_path: Path, ignored: tuple[int, ...]
) -> None:
    run = tmp_path / "run"
    process = start(tmp_path, "train", hanging(tmp_path), "--run-dir", run, call=3, ignored=ignored)
    for signum in (*ignored, *ignored):
        process.send(signum)
        time.sleep(0.2)
    assert "stopping" not in process.stderr
    process.send(signal.SIGTERM)
    process.wait_until(lambda: "SIGTERM: stopping after this step" in process.stderr)
    (tmp_path / "go").touch()
    assert process.wait() == 143


@pytest.mark.parametrize("signum", cases(once=("SIGTERM",)))
def test_training_stops_at_once_before_its_first_step(tmp_path: Path, signum: signal.Signals) -> None:
    run, point = tmp_path / "run", KillPoint("os.rename", "paths.json", signum=signum)
    process = Process(tmp_path, "train", write_tiny(tmp_path), "--run-dir", run, kill_at=point)
    assert process.wait() == CODES[signum]
    assert "stopped at once" in process.stderr and "step 1/6" not in process.stderr
    no_trace(process)
    assert pgrpo("train", tmp_path / "tiny.yaml", "--run-dir", run).exit_code == 0


Command = Callable[[Path], tuple[object, ...]]
"""The words of a command about the recipe and the finished run in a folder."""
OTHERS: dict[str, tuple[Command, int]] = {
    "eval": (lambda folder: ("eval", folder / "run"), 2),
    "compare": (lambda folder: ("compare", folder / "run", folder / "other"), 2),
    "rewards": (lambda folder: ("rewards", "try", folder / "tiny.yaml", "--text", "x"), 1),
}
"""With the call of the reward in which it hangs."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recipe with two finished runs."""
    recipe = hanging(tmp_path)
    for name, seed in (("run", 1), ("other", 2)):
        trained(recipe, tmp_path / name, "--allow-code", "--set", f"seed={seed}", "--set", "data.seed=1")
    return tmp_path


@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("signum", cases(once=("SIGTERM",)))
@pytest.mark.parametrize(
    "verb", ["eval", *(pytest.param(v, marks=pytest.mark.slow) for v in OTHERS if v != "eval")]
)
def test_other_commands_stop_where_they_stand_and_can_be_given_again(
    folder: Path, verb: str, signum: signal.Signals, times: int
) -> None:
    command, call = OTHERS[verb]
    process = start(folder, *command(folder), call=call)
    for _ in range(times):
        process.send(signum)
    assert process.wait(timeout=60) == CODES[signum]
    assert f"{SHORT[signum]}; what was finished before is kept" in process.stderr or times == 2
    no_trace(process)
    (folder / "go").touch()
    assert pgrpo(*command(folder), "--allow-code").exit_code == 0


@pytest.mark.parametrize("signum", cases(once=("SIGTERM",)))
@pytest.mark.parametrize(
    ("verb", "point"),
    [
        # Before the prepared data are put in their place; while the model is put together.
        ("prepare", ("os.rename", ".data-next")),
        ("plan", ("import", "pgrpo_cli.model.memory")),
    ],
)
def test_nothing_is_left_half_done(
    tmp_path: Path, verb: str, point: tuple[str, str], signum: signal.Signals
) -> None:
    recipe = write_tiny(tmp_path)
    words = (verb, recipe, "--run-dir", tmp_path / "run")
    process = Process(tmp_path, *words, kill_at=KillPoint(*point, signum=signum))
    assert process.wait() == CODES[signum], process.stderr
    assert process.stderr.endswith(f"{SHORT[signum]}; what was finished before is kept\n")
    no_trace(process)
    assert pgrpo(*words).exit_code == 0


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("signum", SIGNALS)
def test_a_sweep_passes_a_signal_on_and_ends_with_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signum: signal.Signals, times: int
) -> None:
    runs = tmp_path / "runs"
    process = start(tmp_path, "sweep", hanging(tmp_path), "--seeds", "2", "--runs-dir", runs, call=3)
    for number in range(times):
        process.send(signum)
        process.wait_until(lambda: "stopping after this step" in process.stderr)
        if number + 1 < times:
            time.sleep(0.1)
    if times == 1:
        (tmp_path / "go").touch()
    assert process.wait(timeout=120) == CODES[signum]
    assert "stopped in " in process.stderr and "The same command continues." in process.stderr
    assert ("stopped after step 3 of 6" in process.stderr) == (times == 1)
    no_trace(process)
    assert len(list(runs.iterdir())) == 1
    assert steps_in(next(runs.iterdir()))[-1] == ("step-000003" if times == 1 else "step-000002")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prefix", "suffix", "sent", "code"),
    [
        ("", "", "TERM", 143),
        ("", "", "HUP", 129),
        ("", "", "INT", 130),
        ("nohup ", "", "TERM", 143),
        ("nohup ", "", "HUP", None),
        ("", " &", "TERM", 143),
        ("", " &", "INT", None),
    ],
)
def test_under_a_real_shell(tmp_path: Path, prefix: str, suffix: str, sent: str, code: int | None) -> None:
    """None: the run does not take notice and ends by itself."""
    recipe, run = hanging(tmp_path), tmp_path / "run"
    (tmp_path / "hang").write_text("3")
    command = shlex.join([sys.executable, "-m", "pgrpo_cli", "train", str(recipe), "--run-dir", str(run)])
    start_it = f"{prefix}{command} --allow-code 2> err > out"
    script = f"{start_it} & wait $!" if suffix else f"exec {start_it}"
    shell = subprocess.Popen(["bash", "-c", script], cwd=tmp_path, stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "hangs").exists():
        assert shell.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    child = shell.pid
    if suffix:
        (child,) = map(int, Path(f"/proc/{shell.pid}/task/{shell.pid}/children").read_text().split())
    os.kill(child, signal.Signals[f"SIG{sent}"])
    time.sleep(0.5)
    (tmp_path / "go").touch()
    assert shell.wait(timeout=120) == (0 if code is None else code)
    told = (tmp_path / "err").read_text()
    assert ("stopped after step 3 of 6" in told) == (code is not None)
    assert (run / "adapter").exists() == (code is None)


@pytest.mark.slow
def test_a_terminal_that_closes_loses_nothing(tmp_path: Path) -> None:
    # Whatever is printed from then on fails: the live display, the note, the command that goes on.
    recipe, run = hanging(tmp_path), tmp_path / "run"
    (tmp_path / "hang").write_text("3")
    pid, terminal = pty.fork()
    if pid == 0:
        words = ["-m", "pgrpo_cli", "train", str(recipe), "--run-dir", str(run), "--allow-code"]
        os.execve(sys.executable, [sys.executable, *words], {**os.environ, "TERM": "xterm"})
    deadline = time.monotonic() + 120
    while not (tmp_path / "hangs").exists():
        assert time.monotonic() < deadline
        if select.select([terminal], [], [], 0.05)[0]:
            os.read(terminal, 65536)
    os.close(terminal)
    time.sleep(1)
    (tmp_path / "go").touch()
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    assert steps_in(run) == ["step-000002", "step-000003"]
