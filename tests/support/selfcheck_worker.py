"""A process of `pgrpo selfcheck` whose checks do what a test needs; no torch. Run as a script, by itself.

The first argument lists what the checks do: `name:deed`, with commas.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

from pgrpo_cli.selfcheck import catalogue, worker
from pgrpo_cli.selfcheck.results import Rates

RATES = Rates(copy_rate=1e9, half_dtype="bfloat16", half_rate=2e12, float32_rate=float("nan"))


class Subject:
    """`usable`: whether the device can be used after a check that failed."""

    usable = True

    late: Exception | None = None

    def finish(self) -> None:
        late, self.late = self.late, None
        if late is not None:
            raise late

    def recover(self) -> bool:
        return self.usable


def ok(subject: Subject) -> Any:
    return RATES, None


def wrong(subject: Subject) -> Any:
    return RATES, "the rates are wrong"


def skip(subject: Subject) -> Any:
    raise catalogue.Skipped("needs a GPU")


def out_of_memory(subject: Subject) -> Any:
    raise RuntimeError("CUDA error: out of memory\nmore")


def illegal(subject: Subject) -> Any:
    subject.usable = False
    raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")


def illegal_late(subject: Subject) -> Any:
    subject.usable, subject.late = False, RuntimeError("CUDA error: device-side assert triggered")
    return RATES, None


def kill(subject: Subject) -> Any:
    os.write(2, b"device-side assert triggered\n")
    os.kill(os.getpid(), signal.SIGSEGV)


def leave(subject: Subject) -> Any:
    os._exit(7)


def hang(subject: Subject) -> Any:
    time.sleep(600)


def noisy(subject: Subject) -> Any:
    os.write(1, b"not a line of the pipe\n")
    return RATES, None


if __name__ == "__main__":
    deeds = dict(pair.split(":") for pair in sys.argv[1].split(",") if pair)
    if deeds.get("start") == "fails":
        sys.exit("ImportError: libcudart.so.13: cannot open shared object file")
    catalogue.Check.function = lambda check: globals()[deeds.get(check.name, "ok")]  # type: ignore[method-assign]
    job = json.loads(sys.argv[2])
    with os.fdopen(int(sys.argv[3]), "w", encoding="utf-8") as pipe:
        worker.run_job(job, pipe, Subject())
