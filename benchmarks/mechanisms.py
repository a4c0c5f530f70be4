"""What the mechanisms beside the estimator bring and cost, in the small policy.

    python benchmarks/mechanisms.py --write docs/mechanisms.md
    python benchmarks/mechanisms.py --studies outliers --seeds 3 --tuning-seeds 2

A study has arms in worlds of benchmarks/small_policy.py. Each arm gets its own learning rate, the one with
the best mean area on tuning seeds, and the same evaluation seeds as the others. Differences to the first arm
with the same estimator are paired by seed, with 95 % bootstrap intervals of the mean, uncorrected.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.courses import Balanced, Newcomer, Noisy, Outliers, RareSuccesses, WorstGroup
from benchmarks.markdown import renew, table
from benchmarks.small_policy import Course, Draws, HistorySettings, Trained, World, train
from pgrpo_cli.algo.estimators import resolve_estimator
from pgrpo_cli.stats.intervals import Bootstrap, combination_interval

LEARNING_RATES = (0.14, 0.24, 0.4, 0.68)
STEPS, EVERY, TUNING_SEED, JOINS = 100, 5, 1_000_000, 20


@dataclass(frozen=True)
class Arm:
    """A mechanism with an estimator. `course` makes a new one for each run."""

    estimator: str
    name: str
    course: Callable[[], Course]
    history: HistorySettings = field(default_factory=HistorySettings)

    def run(self, world: World, draws: Draws, rates_S: Tensor) -> Trained:
        """Train the draws' replicas."""
        world = replace(world, history=self.history)
        estimator = resolve_estimator(self.estimator)
        return train(world, draws, estimator, rates_S, evaluate_every=EVERY, course=self.course())


@dataclass(frozen=True)
class Study:
    """Arms by world. `measures` are those of its table; the first one chooses from the learning rates."""

    worlds: Mapping[str, tuple[World, list[Arm]]]
    measures: tuple[str, ...]
    rates: tuple[float, ...] = LEARNING_RATES


def measured(trained: Trained) -> dict[str, Tensor]:
    """Measures of every replica: macro area, at the end macro and worst preference group and majority, and
    the area of the last preference group from step JOINS on.
    """
    curves, last_S_K = trained.curves_S_C_K, trained.curves_S_C_K[:, -1]
    return {
        "area": curves.mean((1, 2)),
        "final": last_S_K.mean(1),
        "worst": last_S_K.amin(1),
        "majority": last_S_K[:, 0],
        "newcomer": curves[:, JOINS // EVERY :, -1].mean(1),
    }


def outliers() -> Study:
    kinds: dict[str, Callable[[float | None], Course]] = {
        "none": lambda clip: Outliers(clip=clip),
        "one of 1e3 in step 1": lambda clip: Outliers(first=1e3, clip=clip),
        "one of 1e6 in step 1": lambda clip: Outliers(first=1e6, clip=clip),
        "0.5 % of ±10": lambda clip: Outliers(share=0.005, size=10.0, clip=clip),
        "0.5 % of ±100": lambda clip: Outliers(share=0.005, size=100.0, clip=clip),
        "none; rewards 0 and 1, 5 % successes": RareSuccesses,
    }
    mechanisms: dict[str, tuple[float | None, HistorySettings]] = {
        "as in the paper": (None, HistorySettings()),
        "clip 5": (5.0, HistorySettings()),
        "clip 5, winsorize 4": (5.0, HistorySettings(winsorize=4.0)),
        "clip 5, ema 0.98": (5.0, HistorySettings("ema", decay=0.98)),
        "clip 5, window 512": (5.0, HistorySettings("window", window=512)),
    }

    def arms(made: Callable[[float | None], Course]) -> list[Arm]:
        return [
            *(
                Arm(estimator, name, partial(made, clip), history)
                for estimator in ("pgrpo", "pgrpo_adaptive")
                for name, (clip, history) in mechanisms.items()
            ),
            Arm("grpo", "clip 5", partial(made, 5.0)),
        ]

    return Study({kind: (World(), arms(made)) for kind, made in kinds.items()}, ("area", "worst"))


def samplers() -> Study:
    equal = (1.0, 1.0, 1.0, 1.0)
    worlds = {
        "40, 20, 20, 20 %": (World(), equal),
        "55, 25, 13, 7 %": (World(shares_K=(0.55, 0.25, 0.13, 0.07)), equal),
        "85, 5, 5, 5 %": (World(shares_K=(0.85, 0.05, 0.05, 0.05)), equal),
        "55, 25, 13, 7 %, noise 1, 1, 4, 4": (
            World(shares_K=(0.55, 0.25, 0.13, 0.07)),
            (1.0, 1.0, 4.0, 4.0),
        ),
        "25 % each, noise 1, 1, 4, 4": (World(shares_K=(0.25,) * 4), (1.0, 1.0, 4.0, 4.0)),
    }

    def arms(world: World, factors: tuple[float, ...]) -> list[Arm]:
        kinds = {"proportional": Noisy, "balanced": Balanced}
        return [
            Arm(estimator, name, partial(kind, world, factors))
            for estimator in ("pgrpo", "pgrpo_adaptive", "grpo")
            for name, kind in kinds.items()
        ]

    found = {name: (world, arms(world, factors)) for name, (world, factors) in worlds.items()}
    return Study(found, ("area", "worst", "majority"))


def worst_group() -> Study:
    """All at one learning rate: a lower one helps the worst preference group by itself."""
    world, factors = World(shares_K=(0.55, 0.25, 0.13, 0.07)), (1.0, 1.0, 4.0, 4.0)
    arms = [
        arm
        for estimator in ("pgrpo_adaptive", "grpo")
        for arm in (
            Arm(estimator, "balanced", partial(Balanced, world, factors)),
            *(
                Arm(estimator, f"worst group, temperature {t:g}", partial(WorstGroup, world, factors, t))
                for t in (0.25, 0.5, 1.0)
            ),
        )
    ]
    found = {"55, 25, 13, 7 %, noise 1, 1, 4, 4": (world, arms)}
    return Study(found, ("area", "worst", "majority"), rates=(0.24,))


def newcomers() -> Study:
    worlds = {
        "scales equal": World(scale_ratio=1.0, shares_K=(0.25,) * 4),
        "scales 1 to 4": World(shares_K=(0.25,) * 4),
        "scales equal, 7 % of the prompts": World(scale_ratio=1.0, shares_K=(0.31, 0.31, 0.31, 0.07)),
    }
    arms = [
        Arm(estimator, f"prior of {prior} rewards" if prior else "no prior", partial(Newcomer, JOINS, prior))
        for estimator in ("pgrpo", "pgrpo_adaptive")
        for prior in (0, 8, 16, 32)
    ]
    return Study({name: (world, arms) for name, world in worlds.items()}, ("newcomer", "area"))


STUDIES = {"outliers": outliers, "samplers": samplers, "worst_group": worst_group, "newcomers": newcomers}


@dataclass(frozen=True)
class Row:
    """One arm in one world: the learning rate, and the measures of every evaluation seed."""

    world: str
    arm: Arm
    rate: float
    scores: dict[str, Tensor]


def studied(study: Study, seeds: int, tuning_seeds: int, tell: Callable[[str], None]) -> list[Row]:
    """Every arm of a study, at its own learning rate."""
    rows = []
    for name, (world, arms) in study.worlds.items():
        tuning = Draws.of(world, range(TUNING_SEED, TUNING_SEED + tuning_seeds), STEPS)
        tuning = tuning.repeated(len(study.rates))
        rates_S = torch.tensor(study.rates).repeat_interleave(tuning_seeds)
        evaluation = Draws.of(world, range(seeds), STEPS)
        for arm in arms:
            begun = time.perf_counter()
            areas = measured(arm.run(world, tuning, rates_S))[study.measures[0]]
            rate = study.rates[int(areas.view(len(study.rates), -1).mean(1).argmax())]
            scores = measured(arm.run(world, evaluation, torch.full((seeds,), rate)))
            rows.append(Row(name, arm, rate, scores))
            tell(f"{name}, {arm.estimator}, {arm.name}: {time.perf_counter() - begun:.0f} s")
    return rows


def tables(study: Study, rows: list[Row]) -> str:
    """The rows as Markdown, a table per world."""
    first: dict[tuple[str, str], Row] = {}
    parts = []
    for name in study.worlds:
        cells = []
        for row in (row for row in rows if row.world == name):
            base = first.setdefault((name, row.arm.estimator), row)
            cells.append(
                [f"`{row.arm.estimator}`", row.arm.name, f"{row.rate:g}",
                 *(_cell(row.scores[m], base.scores[m]) for m in study.measures)]
            )  # fmt: skip
        parts += [f"{name}:", "", table(["estimator", "mechanism", "rate", *study.measures], cells), ""]
    return "\n".join(parts).rstrip()


def _cell(ours_S: Tensor, theirs_S: Tensor) -> str:
    """The mean, and the difference unless it is to itself."""
    if ours_S is theirs_S:
        return f"{ours_S.mean():.3f}"
    found = combination_interval([ours_S - theirs_S], Bootstrap(), [1.0])
    return f"{ours_S.mean():.3f}, {found.mean:+.3f} [{found.low:+.3f}..{found.high:+.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=list(STUDIES), metavar="STUDY")
    parser.add_argument("--seeds", type=int, default=40, help="evaluation seeds (default 40)")
    parser.add_argument("--tuning-seeds", type=int, default=8, help="seeds that choose the rate (default 8)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every seed's measures there as well")
    parser.add_argument("--write", type=Path, metavar="FILE", help="renew the tables between FILE's markers")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    progress, kept = Console(stderr=True), {}
    for name in arguments.studies:
        study = STUDIES[name]()
        rows = studied(
            study, arguments.seeds, arguments.tuning_seeds, lambda text: progress.print(text, highlight=False)
        )
        text = tables(study, rows)
        Console(soft_wrap=True).print(text, markup=False, highlight=False)
        kept[name] = [
            {"world": row.world, "estimator": row.arm.estimator, "mechanism": row.arm.name, "rate": row.rate,
             **{measure: row.scores[measure].tolist() for measure in study.measures}}
            for row in rows
        ]  # fmt: skip
        if arguments.write:
            renew(arguments.write, name, text)
    if arguments.json:
        arguments.json.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
