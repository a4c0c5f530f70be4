"""`pgrpo` in a process of its own that can be killed, without paying for the imports each time.

A fork server imports torch once; every run is a fork of it. Its hash seed differs from the test's process.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "pgrpo_cli.cli.app",
        "pgrpo_cli.verbs.train",
        "pgrpo_cli.eval.alignment",
        "peft",
        "datasets",
        "transformers.models.llama",
    ]
)
FILE_OPERATIONS = frozenset({"open", "os.rename", "os.remove", "os.mkdir", "shutil.rmtree"})
"""Audit events of Python that tell of a change to come; `open` does unless it is for reading."""


@dataclass(frozen=True)
class KillPoint:
    """Just before the `number`-th operation of kind `event` (any of FILE_OPERATIONS if empty) on a path that
    contains `name`; a signal other than SIGKILL may be sent there.
    """

    event: str
    name: str
    number: int = 1
    signum: int = signal.SIGKILL


class Process:
    """A running command; standard output and error go to files in `folder`.

    `ignored`: signals that the parent ignores, as nohup and shells do for their background jobs.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: object,
        kill_at: KillPoint | None = None,
        largest_file: int | None = None,
        ignored: Sequence[int] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._out, self._err = folder / "stdout", folder / "stderr"
        self._out.write_bytes(b"")
        self._err.write_bytes(b"")
        words = [str(argument) for argument in arguments]
        self._process = CONTEXT.Process(
            target=_run, args=(words, str(self._out), str(self._err), kill_at, largest_file, ignored)
        )
        self._process.start()

    @property
    def stdout(self) -> str:
        return self._out.read_text(encoding="utf-8", errors="replace")

    @property
    def stderr(self) -> str:
        return self._err.read_text(encoding="utf-8", errors="replace")

    def send(self, signum: int) -> None:
        """Send a signal; one that has ended takes none."""
        if self._process.is_alive():
            assert self._process.pid is not None
            os.kill(self._process.pid, signum)

    def wait_until(self, condition: Callable[[], object], timeout: float = 600) -> None:
        """Wait until `condition` holds, or until the process has ended."""
        deadline = time.monotonic() + timeout
        while not condition() and self._process.is_alive():
            assert time.monotonic() < deadline, f"waited {timeout} s in vain:\n{self.stderr}"
            time.sleep(0.005)

    def wait(self, timeout: float = 600) -> int:
        """Wait for the end and return the exit code, -9 for a kill."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, f"still running after {timeout} s:\n{self.stderr}"
        return self._process.exitcode


def _run(
    words: list[str],
    out: str,
    err: str,
    kill_at: KillPoint | None,
    largest_file: int | None,
    ignored: Sequence[int],
) -> None:
    for path, stream in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), stream)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    for signum in ignored:
        signal.signal(signum, signal.SIG_IGN)
    if kill_at is not None:
        _arm(kill_at)
    from pgrpo_cli.cli.process import run

    sys.argv = ["pgrpo", *words]
    run()


def _arm(point: KillPoint) -> None:
    count = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        counts = event == point.event if point.event else event in FILE_OPERATIONS
        if event == "open" and arguments[1] in ("r", "rb", None):
            return
        if counts and point.name in str(arguments[0]):
            count += 1
            if count == point.number:
                os.kill(os.getpid(), point.signum)

    sys.addaudithook(hook)
