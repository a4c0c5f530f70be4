"""The process that runs checks, one after the other: started by runner.py, which it may leave at any moment.

Its arguments are a JSON object (device, shape, names of checks, what failed in other processes) and the
number of a pipe. Into that it writes a JSON line before each check and one with the result after it. Its own
standard output and error belong to whatever libraries print.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import IO, Any

from pgrpo_cli.errors import PgrpoError

from .catalogue import BY_NAME, Check, Skipped
from .results import CheckResult

_LONGEST_REASON = 500


def attempt(check: Check, subject: Any) -> CheckResult:
    """Run a check; whatever it raises becomes its result."""
    started = time.perf_counter()

    def result(status: Any, reason: str | None = None, **more: Any) -> CheckResult:
        seconds = time.perf_counter() - started
        return CheckResult(name=check.name, status=status, reason=reason, seconds=seconds, **more)

    try:
        found, problem = check.function()(subject)
        # What it has given to the device may fail as late as this.
        subject.finish()
        return result("failed" if problem else "ok", problem, found=found)
    except Skipped as why:
        return result("skipped", str(why))
    except PgrpoError as error:
        return result("failed", str(error).replace("\n  ", "; "))
    except Exception as error:
        trace = traceback.format_exc()
        return result("failed", _cause(error), trace=None if "out of memory" in str(error) else trace)


def _cause(error: Exception) -> str:
    """The error in one line, and the last place of ours that it came through."""
    text = (str(error).strip() or "no reason given").splitlines()[0][:_LONGEST_REASON]
    package = str(Path(__file__).parents[1])
    places = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(package)]
    place = f" ({Path(places[-1].filename).name}:{places[-1].lineno})" if places else ""
    return f"{type(error).__name__}: {text}{place}"


def run_job(job: dict[str, Any], pipe: IO[str], subject: Any) -> None:
    """Run the checks of a job, until one leaves the device unusable for this process."""

    def say(line: str) -> None:
        pipe.write(f"{line}\n")
        pipe.flush()

    for name in job["names"]:
        say(json.dumps({"begin": name}))
        result = attempt(BY_NAME[name], subject)
        say(result.model_dump_json())
        if not subject.recover():
            return


def main(job: dict[str, Any], pipe: IO[str]) -> None:
    """Run the checks of a job on the device and the shape that it names."""
    from pgrpo_cli.model.update.determinism import prepare_determinism
    from pgrpo_cli.recipe.training import TrainSection

    from .subject import Subject

    # One of the checks asks for it, and it must be set before any of them uses a GPU.
    prepare_determinism(TrainSection(deterministic=True))
    with tempfile.TemporaryDirectory(prefix="pgrpo-selfcheck-") as folder:
        subject = Subject(job["device"], job["shape"], Path(folder), failed=job["failed"])
        run_job(job, pipe, subject)


if __name__ == "__main__":
    with os.fdopen(int(sys.argv[2]), "w", encoding="utf-8") as opened:
        main(json.loads(sys.argv[1]), opened)
