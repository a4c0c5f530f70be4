"""The runs of the personas study (`recipes/quickstart.yaml`): which there are, and what is kept of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.study import ROOT, Records, lines_of
from pgrpo_cli import __version__
from pgrpo_cli.state.history_store import GroupRow, read_groups
from pgrpo_cli.state.run import RunDirectory

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

    @property
    def recipe(self) -> Path:
        return RECIPE

    def overrides(self) -> tuple[str, ...]:
        """What `--set` takes."""
        return (*METHODS[self.method], f"train.learning_rate={self.rate:g}", f"seed={self.seed}", *SETTINGS)


def record_of(run: Run, path: Path) -> dict[str, Any]:
    """What is kept of a finished run: the held-out curve by prompt, numbers of each step, and the weight w
    that the reward history gives each preference group (None: too early to tell).
    """
    curve = []
    for line in lines_of(path / "eval" / "curve.jsonl"):
        prompts = {p: value for group in line["groups"].values() for p, value in group["prompts"].items()}
        curve.append({"step": line["step"], "prompts": {p: round(prompts[p], 6) for p in sorted(prompts)}})
    steps = lines_of(path / "metrics.jsonl")
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
