"""Kill -9 at any moment: the run goes on and ends as one that was left alone."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator, Sequence
from itertools import count, cycle
from pathlib import Path

import pytest

from tests.support.lives import STAGES, Life
from tests.support.processes import KillPoint, Process
from tests.support.training import SMOKE, TINY, outcome, trained, write_tiny

SEED = int(os.environ.get("TORTURE_SEED", "64"))
"""Of the random moments."""

FEW = [("preparing", "training", "finishing")]
# The stages in which one run after another is killed, until it is finished.
MANY = [
    ("starting", "preparing", "training", "starting", "finishing", "finishing", "leaving"),
    ("preparing", "loading", "training", "training", "finishing", "finishing", "leaving"),
    ("loading", "training", "starting", "training", "finishing", "finishing", "leaving"),
]


class Torture:
    """Runs of the smoke recipe, each killed until it is finished."""

    def __init__(self, folder: Path, steps: int) -> None:
        self._folder, self._steps = folder, steps
        # Few checkpoints, so that most kills cost steps.
        self._options = ["--set", f"train.steps={steps}", "--set", "train.save_every=3"]
        self._numbers = count()
        self._rng = random.Random(SEED)
        whole = folder / "whole"
        self._lengths = self._life(whole).lengths()
        self._whole = outcome(whole)
        lengths = (f"{name} {length:.2f} s" for name, length in zip(STAGES, self._lengths, strict=True))
        print(f"\nTORTURE_SEED={SEED}; processor time: {', '.join(lengths)}")  # noqa: T201

    def _life(self, run: Path) -> Life:
        folder = self._folder / f"life-{next(self._numbers)}"
        return Life(folder, SMOKE, run, *self._options, steps=self._steps)

    def kills(self, run: Path, stages: Sequence[str]) -> Iterator[str]:
        """Kill a run at a random moment in each of `stages` until it is finished; yields where that was."""
        for name in stages:
            after = self._rng.random() * self._length(name, run, stages)
            life = self._life(run)
            where = life.kill(STAGES.index(name), after)
            if where is not None:
                print(f"{run.name}: killed while {STAGES[where]}; meant: {name} + {after:.3f} s")  # noqa: T201
                yield STAGES[where]
            if (run / "adapter").exists():
                return
            assert where is not None, life.stderr

    def _length(self, name: str, run: Path, stages: Sequence[str]) -> float:
        """How long the stage of a life that begins now will last."""
        lengths = dict(zip(STAGES, self._lengths, strict=True))
        if name == "starting" and any(run.glob("checkpoints/step-*")):
            return lengths["starting"] + lengths["loading"]
        # The kills while it trains leave steps to what comes after them.
        return lengths[name] / (1 + stages.count(name) if name == "training" else 1)

    def goes_on(self, run: Path) -> None:
        """The run ends as the one that was left alone."""
        trained(SMOKE, run, *self._options)
        ours = outcome(run)
        for name, value in self._whole.items():
            assert ours[name] == value, name
        assert len(ours["metrics"]) == self._steps


def killed(folder: Path, runs: Sequence[Sequence[str]], *, kills: int, steps: int) -> set[str]:
    """Kill runs until there have been `kills`; the stages that they hit."""
    torture, left, hit = Torture(folder, steps), kills, set()
    for number, stages in enumerate(cycle(runs)):
        run = folder / f"run-{number}"
        for stage in torture.kills(run, stages[:left]):
            left -= 1
            hit.add(stage)
        torture.goes_on(run)
        if left == 0:
            return hit
    raise AssertionError("there are always more runs")


def test_three_kills(tmp_path: Path) -> None:
    killed(tmp_path, FEW, kills=3, steps=12)


@pytest.mark.slow
def test_torture_of_twenty_kills(tmp_path: Path) -> None:
    hit = killed(tmp_path, MANY, kills=20, steps=24)
    assert hit == set(STAGES)


# Each is hit by a process that goes on where the one before was killed; checkpoints fall on even steps.
KILL_POINTS = [
    KillPoint("open", ".pgrpo-run"),
    KillPoint("os.rename", ".recipe.yaml."),
    KillPoint("open", ".data-next/manifest.json"),
    KillPoint("os.rename", ".data-next"),
    KillPoint("open", "metrics.jsonl", 2),
    KillPoint("open", ".step-000002.tmp", 2),
    KillPoint("os.rename", ".step-000002.tmp"),
    KillPoint("open", "metrics.jsonl", 3),
    KillPoint("os.rename", "checkpoints/step-000002"),
    KillPoint("shutil.rmtree", ".step-000004.old"),
    KillPoint("open", ".adapter.tmp", 2),
    KillPoint("os.rename", ".adapter.tmp"),
]


def test_killed_between_file_operations(tmp_path: Path) -> None:
    recipe = write_tiny(tmp_path, train={**TINY["train"], "steps": 8, "keep_checkpoints": 2})
    run, whole = tmp_path / "run", tmp_path / "whole"
    trained(recipe, whole)
    for number, point in enumerate(KILL_POINTS):
        process = Process(tmp_path / f"process-{number}", "train", recipe, "--run-dir", run, kill_at=point)
        assert process.wait() == -signal.SIGKILL, (point, process.stdout, process.stderr)
    assert trained(recipe, run).stdout.startswith("resumed from step 8\n")
    assert outcome(run) == outcome(whole)


@pytest.mark.slow
def test_torture_killed_at_every_file_operation(tmp_path: Path) -> None:
    recipe = write_tiny(tmp_path, train={**TINY["train"], "steps": 3, "save_every": 1, "keep_checkpoints": 2})
    trained(recipe, tmp_path / "whole")
    whole = outcome(tmp_path / "whole")
    for number in count(1):
        run = tmp_path / f"run-{number}"
        point = KillPoint("", str(run), number)
        process = Process(tmp_path / "process", "train", recipe, "--run-dir", run, kill_at=point)
        if process.wait() == 0:
            break
        trained(recipe, run)
        assert outcome(run) == whole, f"killed at file operation {number}"
    print(f"\nkilled at each of {number - 1} file operations")  # noqa: T201
    assert number > 50
