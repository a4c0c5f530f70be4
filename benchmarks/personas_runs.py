"""The runs of the personas study: which there are, training them, and what is kept of each.

Every run is `pgrpo train recipes/quickstart.yaml` with the overrides of `Run.overrides`, in a process of its
own, and can be repeated by that command. Of a finished run one record stays in the results file, so that a
study that is stopped goes on where it was, on another machine too; the directory of a run is then not needed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from pgrpo_cli import __version__
from pgrpo_cli.state.history_store import GroupRow, read_groups
from pgrpo_cli.state.run import RunDirectory

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes" / "quickstart.yaml"

METHODS: dict[str, tuple[str, ...]] = {
    "grpo": ("advantage.estimator=grpo",),
    "pgrpo": ("advantage.estimator=pgrpo",),
    "pgrpo_shrinkage": ("advantage.estimator=pgrpo_shrinkage",),
    "dr_grpo": ("advantage.estimator=dr_grpo",),
    "pgrpo_centered": ("advantage.estimator=pgrpo_centered",),
    "pgrpo, random groups": (
        "advantage.estimator=pgrpo",
        "data.preference_groups={type: random, count: 7}",
    ),
    "pgrpo_adaptive": ("advantage.estimator=pgrpo_adaptive",),
}
RATES = (6e-4, 1.2e-3, 2.4e-3)
SETTINGS = (
    "train.steps=20",
    "eval.every=10",
    "eval.num_completions=2",
    "data.seed=0",
    "loss.aggregation=sequence_mean",
    "advantage.clip=null",
)
"""Equal for all: 20 steps of 8 prompts with 8 completions; all runs have the same prompts. The last two are
what the runs of benchmarks/personas.json had, which are older than the defaults of today."""


@dataclass(frozen=True)
class Run:
    """One training run of the study."""

    method: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """A directory's name, and the key of its record."""
        method = self.method.replace(", ", "-").replace(" ", "-")
        return f"{method}-{self.rate:g}-seed{self.seed}"

    def overrides(self) -> tuple[str, ...]:
        """What `--set` takes."""
        return (*METHODS[self.method], f"train.learning_rate={self.rate:g}", f"seed={self.seed}", *SETTINGS)


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
    runs: Sequence[Run], results: Results, directory: Path, jobs: int, tell: Callable[[str], None]
) -> None:
    """Train the runs that have no record, `jobs` at once. Raises SystemExit naming those that failed."""
    todo = [run for run in runs if run.name not in results.records]
    threads = max(1, (os.cpu_count() or 1) // jobs)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}

    def one(run: Run) -> str | None:
        path = directory / run.name
        words = [word for override in run.overrides() for word in ("--set", override)]
        command = [sys.executable, "-m", "pgrpo_cli", "train", str(RECIPE), "--run-dir", str(path), *words]
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


def record_of(run: Run, path: Path) -> dict[str, Any]:
    """What is kept of a finished run: the held-out curve by prompt, numbers of each step, and the weight w
    that the reward history gives each preference group (None: too early to tell).
    """
    curve = []
    for line in _lines(path / "eval" / "curve.jsonl"):
        prompts = {p: value for group in line["groups"].values() for p, value in group["prompts"].items()}
        curve.append({"step": line["step"], "prompts": {p: round(prompts[p], 6) for p in sorted(prompts)}})
    steps = _lines(path / "metrics.jsonl")
    groups = read_groups(path / "history.sqlite")
    G = RunDirectory(path).recipe().rollout.num_generations
    return {
        "method": run.method,
        "rate": run.rate,
        "seed": run.seed,
        "overrides": list(run.overrides()),
        "version": __version__,
        "curve": curve,
        "training_reward": [round(step["reward_mean"], 6) for step in steps],
        "seconds": [round(step["seconds"]["total"], 2) for step in steps],
        "entropy": [round(step["entropy"], 4) for step in steps],
        "length": [round(step["completion_length_mean"], 2) for step in steps],
        "loss": [round(step["loss"], 4) for step in steps],
        "weights": {group.preference_group: weight_of(group, G) for group in groups},
    }


def weight_of(group: GroupRow, num_generations: int) -> float | None:
    """The shrinkage weight w by the whole history; None for fewer than 10 prompts, or without a spread."""
    within, between = group.within_variance, group.between_variance
    if group.prompts < 10 or within is None or between is None or within <= 0:
        return None
    return between / (between + within / num_generations)


def tuning_runs(methods: Sequence[str]) -> list[Run]:
    """Every rate of every method, with seed 0, the middle rate first."""
    rates = sorted(RATES, key=lambda rate: rate != RATES[len(RATES) // 2])
    return [Run(method, rate, 0) for rate, method in product(rates, methods)]


def tuning_reward(records: Records, method: str, rate: float) -> float:
    """The mean training reward over the second half of seed 0's run."""
    rewards = records[Run(method, rate, 0).name]["training_reward"]
    return fmean(rewards[len(rewards) // 2 :])


def chosen_rates(methods: Sequence[str], records: Records) -> dict[str, float]:
    """The rate of each method: the one of RATES with the highest `tuning_reward`."""
    return {name: max(RATES, key=lambda rate: tuning_reward(records, name, rate)) for name in methods}


def compared_runs(rates: Mapping[str, float], seeds: int) -> list[Run]:
    """Every method at its rate with seeds 0 to `seeds` - 1, seed by seed."""
    return [Run(method, rate, seed) for seed in range(seeds) for method, rate in rates.items()]


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
