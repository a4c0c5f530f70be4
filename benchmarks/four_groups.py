"""P-GRPO against GRPO where theory expects a difference: with 2, 4 or 8 completions per prompt.

    python benchmarks/four_groups.py tune --jobs 2        # rates, on seeds and prompts that do not count
    python benchmarks/four_groups.py power                # what difference so many seeds can show
    python benchmarks/four_groups.py compare --jobs 2     # the runs that count
    python benchmarks/four_groups.py tables --write docs/reproduction-tables.md

The task is `benchmarks/four_groups/recipe.yaml`. A step has 32 completions in every shape: 16 prompts with 2,
8 with 4, 4 with 8. The measure is the area under the held-out success rate, each preference group counted
once. docs/reproduction.md has what was predicted, and the analysis, from before the first run that counts.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from rich.console import Console

from benchmarks.markdown import renew, table
from benchmarks.study import ROOT, Records, Results, lines_of, train_all
from pgrpo_cli import __version__
from pgrpo_cli.stats.intervals import Bootstrap
from pgrpo_cli.stats.methods import Difference, difference_of, holm, p_value, seeds_interval
from pgrpo_cli.stats.student_t import student_t_quantile

FOLDER = Path(__file__).resolve().with_suffix("")
RECIPE, RESULTS = FOLDER / "recipe.yaml", FOLDER / "runs.json"

GROUPS = {"red": 0.55, "blue": 0.25, "green": 0.13, "white": 0.07}
"""The preference groups, and their shares of the training prompts."""
MAJORITY = "red"
SHAPES = {2: 16, 4: 8, 8: 4}
"""Prompts of a step by completions of a prompt."""
RATES = (3e-4, 6e-4, 1.2e-3)
TUNING_SEEDS = (100, 101)
SEEDS = 10
EARLY_SEEDS, EARLY_LEVEL = 5, 0.001
"""A contrast is decided with so few seeds if its p-value is below this level (Haybittle and Peto)."""
ESTIMATORS = ("grpo", "pgrpo")
SERVED, NOT_SERVED = 0.5, 0.1
"""A run was captured by the majority if this is served at the end and the others, in the mean, are not."""


@dataclass(frozen=True)
class Run:
    """One training run."""

    estimator: str
    num_generations: int
    rate: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.estimator}-{self.num_generations}-{self.rate:g}-seed{self.seed}"

    @property
    def recipe(self) -> Path:
        return RECIPE

    def overrides(self) -> tuple[str, ...]:
        """What `--set` takes. Runs for tuning are evaluated on prompts of their own."""
        tuning = self.seed in TUNING_SEEDS
        return (
            f"advantage.estimator={self.estimator}",
            f"rollout.num_generations={self.num_generations}",
            f"train.prompts_per_step={SHAPES[self.num_generations]}",
            f"train.learning_rate={self.rate:g}",
            f"seed={self.seed}",
            *(("data.source.eval_path=tuning.jsonl",) if tuning else ()),
        )


def record_of(run: Run, path: Path) -> dict[str, Any]:
    """What is kept of a finished run: the held-out curve, by preference group and prompt, and its steps."""
    curve = [
        {
            "step": line["step"],
            "groups": {
                name: {p: round(value, 6) for p, value in sorted(group["prompts"].items())}
                for name, group in line["groups"].items()
            },
        }
        for line in lines_of(path / "eval" / "curve.jsonl")
    ]
    steps = lines_of(path / "metrics.jsonl")
    return {
        "overrides": list(run.overrides()),
        "version": __version__,
        "curve": curve,
        "training_reward": [round(step["reward_mean"], 4) for step in steps],
        "entropy": [round(step["entropy"], 3) for step in steps],
        "length": [round(step["completion_length_mean"], 2) for step in steps],
        "seconds": [round(step["seconds"]["total"], 1) for step in steps],
    }


Values = dict[str, list[float]]
"""By preference group, one value for each held-out prompt."""


def areas(record: Mapping[str, Any]) -> Values:
    """The mean height of each prompt's held-out curve over the steps (trapezoids)."""
    curve = record["curve"]
    width = curve[-1]["step"] - curve[0]["step"]
    found: Values = {}
    for group in GROUPS:
        pieces = [
            [(b["step"] - a["step"]) * (a["groups"][group][p] + b["groups"][group][p]) / 2 / width
             for a, b in itertools.pairwise(curve)]
            for p in curve[0]["groups"][group]
        ]  # fmt: skip
        found[group] = [math.fsum(of_prompt) for of_prompt in pieces]
    return found


def at(record: Mapping[str, Any], place: int) -> Values:
    """The values at one point of the curve: 0 is the first, -1 the last."""
    return {group: list(record["curve"][place]["groups"][group].values()) for group in GROUPS}


def macro(values: Values) -> float:
    """Each preference group counted once."""
    return fmean(fmean(of_group) for of_group in values.values())


def captured(record: Mapping[str, Any]) -> bool:
    """Whether the run ends with the majority served and, in the mean, nobody else."""
    rates = {group: fmean(values) for group, values in at(record, -1).items()}
    others = fmean(rate for group, rate in rates.items() if group != MAJORITY)
    return rates[MAJORITY] >= SERVED and others <= NOT_SERVED


def tuned_area(records: Records, estimator: str, G: int, rate: float) -> float | None:
    """The mean macro area over the seeds for tuning; None if one of them has no record."""
    names = [Run(estimator, G, rate, seed).name for seed in TUNING_SEEDS]
    if not all(name in records for name in names):
        return None
    return fmean(macro(areas(records[name])) for name in names)


def rates_of(records: Records, estimator: str, G: int) -> dict[float, float]:
    """The rates that have been tried, in order, with their areas: RATES, and rates beyond them."""
    tried = sorted({RATES[0] / 2, *RATES, RATES[-1] * 2})
    areas_of = {rate: tuned_area(records, estimator, G, rate) for rate in tried}
    return {rate: area for rate, area in areas_of.items() if area is not None}


def best_rate(records: Records, estimator: str, G: int) -> float:
    """The rate with the largest area. Raises SystemExit if tuning has not been finished."""
    found = rates_of(records, estimator, G)
    if not set(RATES) <= set(found):
        raise SystemExit(f"{estimator} with {G} completions has not been tuned: run `tune` first")
    return max(found, key=lambda rate: found[rate])


def tuning_runs(records: Records) -> list[Run]:
    """All runs for tuning. Where the best of the rates is at an end, one more rate beyond it is tried."""
    runs = []
    for G, estimator in itertools.product(SHAPES, ESTIMATORS):
        found = rates_of(records, estimator, G)
        rates = list(RATES)
        if set(RATES) <= set(found):
            best = max(RATES, key=lambda rate: found[rate])
            rates += [best / 2] if best == RATES[0] else [best * 2] if best == RATES[-1] else []
        runs += [Run(estimator, G, rate, seed) for seed in TUNING_SEEDS for rate in rates]
    return runs


def compared_runs(records: Records, seeds: int) -> list[Run]:
    """The runs that count, seed by seed, so that a study that is stopped has the same seeds everywhere."""
    rates = {(e, G): best_rate(records, e, G) for G in SHAPES for e in ESTIMATORS}
    return [Run(e, G, rate, seed) for seed in range(seeds) for (e, G), rate in rates.items()]


def records_of(records: Records, estimator: str, G: int) -> list[Mapping[str, Any]]:
    """The records that count of one arm, seed by seed, up to the first seed without one."""
    rate = best_rate(records, estimator, G)
    names = (Run(estimator, G, rate, seed).name for seed in itertools.count())
    return [records[name] for name in itertools.takewhile(records.__contains__, names)]


def contrast(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> Difference:
    """The difference of the macro areas, over seeds and prompts."""
    sides = [[areas(record) for record in side] for side in (ours, theirs)]
    return difference_of([tuple(np.array([a[g] for a in side]) for side in sides) for g in GROUPS])  # type: ignore[misc]


def detectable(spread: float, seeds: int) -> float:
    """The difference of two means that a two-sided t-test at 5 % finds with 80 % power, given the standard
    deviation over seeds of one arm: (t(0.975) + t(0.8)) · spread · sqrt(2 / seeds).
    """
    df = 2 * (seeds - 1)
    return (student_t_quantile(0.975, df) + student_t_quantile(0.8, df)) * spread * math.sqrt(2 / seeds)


def power_table(records: Records) -> str:
    """What differences can be seen, by the spread of the two tuning seeds of every arm at its best rate."""
    rows, squares = [], []
    for G, estimator in itertools.product(SHAPES, ESTIMATORS):
        best = best_rate(records, estimator, G)
        values = [macro(areas(records[Run(estimator, G, best, s).name])) for s in TUNING_SEEDS]
        squares.append(stdev(values) ** 2)
        rows.append([f"`{estimator}`, G = {G}", f"{best:g}", *(f"{value:.3f}" for value in values)])
    spread = math.sqrt(fmean(squares))
    sees = ", ".join(f"{detectable(spread, n):.3f} with {n}" for n in (5, 10, 20))
    arms = table(["arm", "best rate", *(f"area, seed {seed}" for seed in TUNING_SEEDS)], rows)
    return f"{arms}\n\nPooled standard deviation over seeds: {spread:.3f}. Detectable at 80 %: {sees} seeds."


def tables(records: Records) -> str:
    """All results as Markdown."""
    tuning = [
        [f"`{e}`", str(G), ", ".join(f"{rate:g}: {a:.3f}" for rate, a in rates_of(records, e, G).items())]
        for G, e in itertools.product(SHAPES, ESTIMATORS)
    ]
    parts = ["Mean area by rate, on the tuning seeds and prompts:", "", table(["", "G", "rates"], tuning)]
    parts += ["", power_table(records)]
    arms = {(e, G): records_of(records, e, G) for G in SHAPES for e in ESTIMATORS}
    if min(map(len, arms.values())) > 1:
        parts += ["", *_results(arms)]
    return "\n".join(parts)


def _results(arms: Mapping[tuple[str, int], Sequence[Mapping[str, Any]]]) -> list[str]:
    rows = []
    for (estimator, G), found in arms.items():
        values = [macro(areas(record)) for record in found]
        ends = [at(record, -1) for record in found]
        by_group = [f"{fmean(fmean(end[group]) for end in ends):.2f}" for group in GROUPS]
        count = f"{sum(map(captured, found))} of {len(found)}"
        final = fmean(map(macro, ends))
        rows.append([f"`{estimator}`", str(G), f"{fmean(values):.3f} ± {stdev(values):.3f}", f"{final:.3f}",
                     *by_group, count])  # fmt: skip
    contrasts = [contrast(arms["pgrpo", G], arms["grpo", G]) for G in SHAPES]
    compared = []
    for G, difference, p in zip(SHAPES, contrasts, holm([p_value(c) for c in contrasts]), strict=True):
        interval = seeds_interval(difference, Bootstrap(samples=10_000))
        shown = f"{interval.mean:+.3f} [{interval.low:+.3f}..{interval.high:+.3f}]"
        compared.append([str(G), shown, f"{p:.3f}"])
    groups = [f"{name} ({share:.0%})" for name, share in GROUPS.items()]
    return [
        "Area, mean and standard deviation over seeds; success rates at the end; runs that the majority "
        "captured:",
        "",
        table(["", "G", "area", "final", *groups, "captured"], rows),
        "",
        "`pgrpo` − `grpo` in the area, 95 % intervals over seeds and prompts; p-values after Holm's "
        "correction:",
        "",
        table(["G", "difference", "p"], compared),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("phase", choices=("tune", "power", "compare", "tables"))
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"seeds that count (default {SEEDS})")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, each with its share of the cores")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE")
    parser.add_argument("--runs-dir", type=Path, default=ROOT / "runs" / "four-groups", metavar="DIR")
    parser.add_argument("--write", type=Path, metavar="FILE", help="renew the tables between FILE's markers")
    arguments = parser.parse_args()
    console, results = Console(stderr=True), Results(arguments.results)

    def train(runs: Sequence[Run]) -> None:
        def tell(text: str) -> None:
            console.print(text, highlight=False, markup=False)

        train_all(runs, results, arguments.runs_dir, arguments.jobs, record_of, tell)

    if arguments.phase == "tune":
        # A second time for the rates beyond the ends, which are known then.
        train(tuning_runs(results.records))
        train(tuning_runs(results.records))
    elif arguments.phase == "compare":
        train(compared_runs(results.records, arguments.seeds))
    show = power_table if arguments.phase in ("tune", "power") else tables
    text = show(results.records)
    Console(soft_wrap=True).print(text, markup=False, highlight=False)
    if arguments.write:
        renew(arguments.write, "four-groups", text)


if __name__ == "__main__":
    main()
