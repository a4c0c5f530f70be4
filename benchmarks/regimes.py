"""When does P-GRPO help? Every estimator in many regimes, with a small policy and the project's own
algorithm.

    python benchmarks/regimes.py --json regimes.json --write docs/reproduction-tables.md
    python benchmarks/regimes.py --regimes baseline "difficulty 4" --quick

A regime is a world of benchmarks/small_policy.py: the baseline, or one of its factors lower or higher. In
each, every estimator gets the same steps, prompts and completions, and its own learning rate: the best of one
grid, by the mean area on tuning seeds, which are no evaluation seeds. The area is the mean over training of
the expected held-out reward, from 0 (untrained) to 1 (best possible), each preference group counted once.
Differences are paired by seed: 95 % bootstrap intervals of the mean, and p values of a sign-flip test with
Holm's correction over all regimes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.markdown import renew, table
from benchmarks.small_policy import Draws, HistorySettings, Trained, World, train
from pgrpo_cli.algo.estimators import resolve_estimator
from pgrpo_cli.stats.intervals import Bootstrap, Interval, combination_interval
from pgrpo_cli.stats.methods import holm

BASELINE = World()
REGIMES: dict[str, World] = {
    "baseline": BASELINE,
    "scales equal": replace(BASELINE, scale_ratio=1.0),
    "scales 1 to 32": replace(BASELINE, scale_ratio=32.0),
    **{f"difficulty {d}": replace(BASELINE, difficulty_K=(float(d),) * 4) for d in (0, 1, 2, 4)},
    "difficulty 0, 0, 4, 4": replace(BASELINE, difficulty_K=(0.0, 4.0, 0.0, 4.0)),
    "noise 0": replace(BASELINE, noise=0.0),
    "noise 3": replace(BASELINE, noise=3.0),
    "balanced": replace(BASELINE, shares_K=(0.25,) * 4),
    "majority 85 %": replace(BASELINE, shares_K=(0.85, 0.05, 0.05, 0.05)),
    "prompt ranges differ": replace(BASELINE, range_spread=1.0),
    "easy task": replace(BASELINE, features=4, tokens=3, vocabulary=8),
    "16 prompts x 2": replace(BASELINE, prompts=16, num_generations=2),
    "2 prompts x 16": replace(BASELINE, prompts=2, num_generations=16),
    "8 prompts x 8": replace(BASELINE, num_generations=8),
    "history after": replace(BASELINE, history=HistorySettings(update="after")),
    "history ema": replace(BASELINE, history=HistorySettings("ema", decay=0.995)),
    "history window": replace(BASELINE, history=HistorySettings("window", window=512)),
}
"""The baseline: reward scales 1 to 4, difficulty 0.5, noise 1, a majority of 40 %, 8 prompts with 4
completions, a cumulative history, updated before. Forgetting histories are those of the recipe's defaults.
"""

ESTIMATORS = ("grpo", "pgrpo", "pgrpo_adaptive", "pgrpo_shrinkage", "pgrpo_centered", "dr_grpo", "rloo")
RANDOM = "pgrpo, random groups"
LEARNING_RATES = (0.08, 0.14, 0.24, 0.4, 0.68, 1.15)
STEPS = 100
TUNING_SEED = 1_000_000
COMPONENTS = ("weight", "weight_spread", "spread_ratio")
MEASURES = ("area", "final", "worst", "majority", "minority")
CONTRASTS = (
    ("pgrpo", "grpo"),
    ("pgrpo_adaptive", "grpo"),
    ("pgrpo_adaptive", "pgrpo"),
    ("pgrpo_shrinkage", "grpo"),
    ("pgrpo_shrinkage", "pgrpo"),
    ("pgrpo_adaptive", "pgrpo_shrinkage"),
    ("pgrpo", RANDOM),
)
FLIPS = 100_000


@dataclass(frozen=True)
class Scores:
    """One estimator in one regime: every measure of every evaluation seed, and how it was tuned."""

    learning_rate: float
    tuning: list[float]
    """Mean area on the tuning seeds, a learning rate of the grid each."""
    measures: dict[str, list[float]]
    components: dict[str, float]
    """What `pgrpo groups` would show at the end, medians over seeds: see `components`."""
    seconds: float


@dataclass(frozen=True)
class Contrast:
    """An estimator's area minus another's, paired by seed."""

    interval: Interval
    p: float
    adjusted_p: float

    @property
    def verdict(self) -> str:
        """At 5 % over all regimes."""
        if self.adjusted_p >= 0.05:
            return "="
        return "ahead" if self.interval.mean > 0 else "behind"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--regimes", nargs="+", choices=REGIMES, default=list(REGIMES), metavar="REGIME")
    parser.add_argument("--seeds", type=int, default=40, help="evaluation seeds (default 40)")
    parser.add_argument(
        "--tuning-seeds", type=int, default=16, help="seeds that choose the rate (default 16)"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help=f"steps of a run (default {STEPS})")
    parser.add_argument("--quick", action="store_true", help="3 seeds, 2 for tuning, 10 steps: does it run?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    parser.add_argument("--write", type=Path, metavar="FILE", help="renew the tables between FILE's markers")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds, arguments.tuning_seeds, arguments.steps = 3, 2, 10
    torch.set_num_threads(1)
    begun, progress = time.perf_counter(), Console(stderr=True)
    found = {}
    for name in arguments.regimes:
        found[name] = study(REGIMES[name], arguments.seeds, arguments.tuning_seeds, arguments.steps)
        progress.print(f"{name}: {time.perf_counter() - begun:.0f} s", highlight=False)
    contrasts = compared(found)
    text = tables(found, contrasts)
    Console(soft_wrap=True).print(text, markup=False, highlight=False)
    if arguments.json:
        arguments.json.write_text(json.dumps(as_data(found, contrasts, arguments), indent=2) + "\n")
    if arguments.write:
        renew(arguments.write, "regimes", text)


def study(world: World, seeds: int, tuning_seeds: int, steps: int) -> dict[str, Scores]:
    """Every estimator in a world, each at the learning rate that suits it best."""
    tuning = Draws.of(world, range(TUNING_SEED, TUNING_SEED + tuning_seeds), steps)
    tuning = tuning.repeated(len(LEARNING_RATES))
    rates_S = torch.tensor(LEARNING_RATES).repeat_interleave(tuning_seeds)
    evaluation = Draws.of(world, range(seeds), steps)
    found = {}
    for name in (*ESTIMATORS, RANDOM):
        begun = time.perf_counter()
        estimator, at_random = (resolve_estimator("pgrpo" if name == RANDOM else name), name == RANDOM)
        areas = measured(train(world, tuning, estimator, rates_S, random_groups=at_random))["area"]
        means = torch.tensor(areas).view(len(LEARNING_RATES), tuning_seeds).mean(1).tolist()
        rate = LEARNING_RATES[means.index(max(means))]
        trained = train(world, evaluation, estimator, torch.full((seeds,), rate), random_groups=at_random)
        found[name] = Scores(
            rate, means, measured(trained), components(trained, world), time.perf_counter() - begun
        )
    return found


def measured(trained: Trained) -> dict[str, list[float]]:
    """The measures of every replica. `minority` is the mean over all preference groups but the first."""
    curves, last_S_K = trained.curves_S_C_K, trained.curves_S_C_K[:, -1]
    found = {
        "area": curves.mean((1, 2)),
        "final": last_S_K.mean(1),
        "worst": last_S_K.amin(1),
        "majority": last_S_K[:, 0],
        "minority": last_S_K[:, 1:].mean(1),
    }
    return {name: found[name].tolist() for name in MEASURES}


def components(trained: Trained, world: World) -> dict[str, float]:
    """Medians over seeds of what the reward history tells at the end. `weight`: the mean of τ²/(τ² + s²/G)
    over preference groups, which `pgrpo groups` shows; `weight_spread`: the largest minus the smallest of
    them; `spread_ratio`: the largest s over the smallest.
    """
    G = world.num_generations
    weights = [[stats.shrinkage_weight(G) for stats in run] for run in trained.stats_S]
    spreads = [[stats.within_variance**0.5 for stats in run] for run in trained.stats_S]
    return {
        "weight": statistics.median(statistics.fmean(run) for run in weights),
        "weight_spread": statistics.median(max(run) - min(run) for run in weights),
        "spread_ratio": statistics.median(max(run) / max(min(run), 1e-12) for run in spreads),
    }


def compared(found: Mapping[str, Mapping[str, Scores]]) -> dict[str, dict[str, Contrast]]:
    """Each of CONTRASTS in each regime; Holm's correction over the regimes, a family a contrast."""
    contrasts: dict[str, dict[str, Contrast]] = {regime: {} for regime in found}
    for ours, theirs in CONTRASTS:
        differences = {
            regime: torch.tensor(scores[ours].measures["area"], dtype=torch.float64)
            - torch.tensor(scores[theirs].measures["area"], dtype=torch.float64)
            for regime, scores in found.items()
        }
        p = [sign_flip_p(values) for values in differences.values()]
        for (regime, values), raw, adjusted in zip(differences.items(), p, holm(p), strict=True):
            interval = combination_interval([values], Bootstrap(), [1.0])
            contrasts[regime][f"{ours} - {theirs}"] = Contrast(interval, raw, adjusted)
    return contrasts


def sign_flip_p(differences_S: Tensor) -> float:
    """Two-sided p value of mean 0: the share of random signs that give as large a mean, the true ones
    counted.
    """
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (FLIPS, len(differences_S)), generator=generator).double() * 2 - 1
    extreme = (signs @ differences_S).abs() >= differences_S.sum().abs() * (1 - 1e-12)
    return (int(extreme.sum()) + 1) / (FLIPS + 1)


def tables(found: Mapping[str, Mapping[str, Scores]], contrasts: Mapping[str, Mapping[str, Contrast]]) -> str:
    """All results as Markdown."""
    names = list(next(iter(found.values())))
    parts = ["Area under the macro curve, mean over seeds; in brackets the tuned learning rate:", ""]
    rows = [
        [regime, *(f"{mean(scores[n], 'area'):.3f} ({scores[n].learning_rate:g})" for n in names)]
        for regime, scores in found.items()
    ]
    parts += [table(["regime", *(f"`{n}`" for n in names)], rows), ""]
    parts += ["Differences of the area, 95 % intervals; `=` where Holm's p is 0.05 or more:", ""]
    for some in (CONTRASTS[:3], CONTRASTS[3:]):
        rows = [[regime, *(cell(contrasts[regime][f"{a} - {b}"]) for a, b in some)] for regime in found]
        parts += [table(["regime", *(f"`{a}` − `{b}`" for a, b in some)], rows), ""]
    parts += ["At the end, `grpo` / `pgrpo` / `pgrpo_adaptive`:", ""]
    rows = [
        [regime, *(" / ".join(f"{mean(scores[n], m):.3f}" for n in ESTIMATORS[:3]) for m in MEASURES[1:])]
        for regime, scores in found.items()
    ]
    parts += [table(["regime", *MEASURES[1:]], rows), ""]
    parts += ["What the reward histories of `pgrpo` say at the end:", ""]
    rows = [
        [regime, *(f"{value:.2f}" for value in scores["pgrpo"].components.values()),
         cell(contrasts[regime]["pgrpo - grpo"])]
        for regime, scores in found.items()
    ]  # fmt: skip
    parts += [table(["regime", *COMPONENTS, "`pgrpo` − `grpo`"], rows)]
    return "\n".join(parts)


def mean(scores: Scores, measure: str) -> float:
    """Mean over the evaluation seeds."""
    return statistics.fmean(scores.measures[measure])


def cell(contrast: Contrast) -> str:
    """A difference for a table."""
    interval = contrast.interval
    return f"{interval.mean:+.3f} [{interval.low:+.3f}..{interval.high:+.3f}] {contrast.verdict}"


def as_data(
    found: Mapping[str, Mapping[str, Scores]],
    contrasts: Mapping[str, Mapping[str, Contrast]],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """The results for `--json`."""
    return {
        "settings": {
            "seeds": arguments.seeds, "tuning_seeds": arguments.tuning_seeds, "steps": arguments.steps,
            "learning_rates": LEARNING_RATES,
        },
        "regimes": {
            regime: {
                "world": asdict(REGIMES[regime]),
                "estimators": {name: asdict(one) for name, one in scores.items()},
                "contrasts": {
                    name: {**asdict(one), "verdict": one.verdict} for name, one in contrasts[regime].items()
                },
            }
            for regime, scores in found.items()
        },
    }  # fmt: skip


if __name__ == "__main__":
    main()
