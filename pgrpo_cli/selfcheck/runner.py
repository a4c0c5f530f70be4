"""Runs the checks in a process of their own, so that neither a crash, an error of the device that stays, nor
a check that hangs takes the others with it.

One process runs as many checks as it can, which share one model. When it ends before its time, or a check
takes longer than it may, that check has failed, and a new process continues with the next one.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

from .catalogue import BY_NAME
from .child import Child
from .results import CheckResult

DEADLINE_SECONDS = 480.0
"""After so long no further check begins, and the one that runs is ended."""
_START_SECONDS = 120.0
"""How long a process may take until it begins its first check."""
_COMMAND = (sys.executable, "-P", "-m", "pgrpo_cli.selfcheck.worker")
_OVER = "the time for all checks was over"


@dataclass
class Checkup:
    """Checks to be run. `command`: another one that starts a process for them; `limit`: seconds that each
    may take, in place of its own.
    """

    names: Sequence[str]
    device: str = "auto"
    shape: str | None = None
    seconds: float = DEADLINE_SECONDS
    command: Sequence[str] | None = None
    limit: float | None = None
    _failed: dict[str, str] = field(default_factory=dict)

    def results(self) -> Generator[CheckResult]:
        """The result of every check, each as soon as it is there. However this ends, so does the process."""
        deadline = time.monotonic() + self.seconds
        left = list(self.names)
        while left:
            job = {"device": self.device, "shape": self.shape, "names": left, "failed": self._failed}
            with Child([*(self.command or _COMMAND), json.dumps(job)]) as child:
                for result in self._of(child, tuple(left), deadline):
                    left.remove(result.name)
                    if result.status == "failed":
                        self._failed[result.name] = result.reason or ""
                    yield result

    def _of(self, child: Child, names: Sequence[str], deadline: float) -> Iterator[CheckResult]:
        """The results of one process. All checks that it leaves undone are for the next one, but for the one
        in which it ends.
        """
        current, done, began = None, 0, time.monotonic()
        while done < len(names):
            until = min(began + self._limit(current), deadline)
            line = child.line(until - time.monotonic())
            seconds = time.monotonic() - began
            if line is not None:
                said = json.loads(line)
                current, began = said.get("begin"), time.monotonic()
                if current is None:
                    done += 1
                    yield CheckResult.model_validate(said)
            elif child.ended and current is None and done:
                # What it has said last has made it unfit for the next check.
                return
            elif not child.ended and until == deadline:
                yield _skipped(names[done], f"{_OVER} while it ran" if current else _OVER, seconds)
                yield from (_skipped(name, _OVER) for name in names[done + 1 :])
                return
            else:
                limit = f"it took longer than {self._limit(current):.0f} s and was ended"
                why = child.cause() if child.ended else limit
                if current is not None:
                    yield CheckResult(name=current, status="failed", reason=why, seconds=seconds)
                    return
                yield CheckResult(
                    name=names[0], status="failed", reason=f"no process for the checks starts: {why}"
                )
                yield from (_skipped(name, "no process for the checks starts") for name in names[1:])
                return

    def _limit(self, current: str | None) -> float:
        """Seconds until the process must have said something."""
        if current is None:
            return _START_SECONDS
        return self.limit or BY_NAME[current].seconds


def _skipped(name: str, reason: str, seconds: float = 0.0) -> CheckResult:
    return CheckResult(name=name, status="skipped", reason=reason, seconds=seconds)
