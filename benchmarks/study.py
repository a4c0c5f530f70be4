"""Studies of many training runs: training those that are missing, and keeping a record of each.

Every run is `pgrpo train RECIPE` with the run's overrides, in a process of its own, and can be repeated by
that command. Of a finished run one record stays in the results file, so that a study that is stopped goes on
where it was, on another machine too; the directory of a run is then not needed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

ROOT = Path(__file__).resolve().parent.parent


class StudyRun(Protocol):
    """One training run of a study."""

    @property
    def name(self) -> str:
        """A directory's name, and the key of its record."""

    @property
    def recipe(self) -> Path:
        """What `pgrpo train` is given."""

    def overrides(self) -> tuple[str, ...]:
        """What `--set` takes."""


AnyRun = TypeVar("AnyRun", bound=StudyRun)
Records = dict[str, dict[str, Any]]


class Results:
    """The records of finished runs, by name, in one JSON file; written whole after each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: Records = json.loads(path.read_text()) if path.is_file() else {}
        self._lock = threading.Lock()

    def add(self, name: str, record: Mapping[str, Any]) -> None:
        """Keep a record, on disk before it returns."""
        with self._lock:
            self.records[name] = dict(record)
            lines = [f"{json.dumps(n)}: {json.dumps(self.records[n])}" for n in sorted(self.records)]
            new = self.path.with_suffix(".new")
            new.write_text("{\n" + ",\n".join(lines) + "\n}\n")
            os.replace(new, self.path)


def train_all(
    runs: Sequence[AnyRun],
    results: Results,
    directory: Path,
    jobs: int,
    record_of: Callable[[AnyRun, Path], Mapping[str, Any]],
    tell: Callable[[str], None],
) -> None:
    """Train the runs that have no record, `jobs` at once, and keep what `record_of` makes of a run and its
    directory. Raises SystemExit naming those that failed.
    """
    todo = [run for run in runs if run.name not in results.records]
    threads = max(1, (os.cpu_count() or 1) // jobs)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}

    def one(run: AnyRun) -> str | None:
        path = directory / run.name
        words = [word for override in run.overrides() for word in ("--set", override)]
        command = [
            sys.executable,
            "-m",
            "pgrpo_cli",
            "train",
            str(run.recipe),
            "--run-dir",
            str(path),
            *words,
        ]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            tell(f"{run.name} failed with {done.returncode}:\n{done.stderr[-2000:]}")
            return run.name
        results.add(run.name, record_of(run, path))
        tell(f"{run.name} is done; {sum(r.name in results.records for r in runs)} of {len(runs)}")
        return None

    with ThreadPoolExecutor(jobs) as pool:
        failed = [name for name in pool.map(one, todo) if name]
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}; the same command tries them again")


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]
