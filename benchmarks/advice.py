"""Does the predicted efficiency of `pgrpo groups` tell which estimator learns faster?

    python benchmarks/advice.py --write docs/mechanisms.md

In each regime of benchmarks/regimes.py runs of `pgrpo` are looked at after 20, 40, 70 and 100 steps as
`pgrpo groups` would look at them: by the rewards of the latest 40 steps, and the mean of the history. Beside
the mean of these predictions stand the areas that were reached, each at its own learning rate.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.markdown import renew, table
from benchmarks.mechanisms import LEARNING_RATES, STEPS, TUNING_SEED, measured
from benchmarks.regimes import REGIMES
from benchmarks.small_policy import Course, Draws, World, train
from pgrpo_cli.algo.estimators import resolve_estimator
from pgrpo_cli.diagnosis.efficiency import recent_components
from pgrpo_cli.diagnosis.estimator_advice import COMPARED, efficiencies
from pgrpo_cli.diagnosis.view import WINDOW_STEPS, Completions

LOOKS = (20, 40, 70, 100)
LOOKED_AT = 8
"""Seeds of which runs are looked at."""


class Recorder(Course):
    """Keeps what a run saw."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []
        self.received: list[Tensor] = []

    def rewards(self, draws: Draws, step: int, rewards_S_P_G: Tensor) -> Tensor:
        self.seen.append(draws.groups_S_B_P[:, step].clone())
        self.received.append(rewards_S_P_G.clone())
        return rewards_S_P_G


@dataclass(frozen=True)
class Regime:
    """Predicted efficiencies and reached areas by estimator; `difference` is pgrpo's area minus grpo's."""

    predicted: dict[str, float]
    areas: dict[str, float]
    difference: float
    error: float


def completions_of(recorder: Recorder, replica: int, step: int) -> Completions:
    """The completions of the latest steps after `step` as a run records them."""
    rows = [
        (b + 1, p, str(group), reward)
        for b in range(max(0, step - WINDOW_STEPS), step)
        for p, group in enumerate(recorder.seen[b][replica].tolist())
        for reward in recorder.received[b][replica, p].tolist()
    ]
    steps, prompts, groups, rewards = zip(*rows, strict=True)
    none = [""] * len(rows)
    return Completions.of(
        steps=steps, prompts=prompts, preference_groups=groups, rewards=rewards,
        parts=[{}] * len(rows), lengths=[1] * len(rows), texts=none,
    )  # fmt: skip


def predictions(recorder: Recorder, world: World, remembered: int | None) -> dict[str, float]:
    """The mean predicted efficiency of each estimator; the history is of the latest `remembered` rewards."""
    found = []
    for replica in range(LOOKED_AT):
        for step in LOOKS:
            means = {}
            for k in range(len(world.shares_K)):
                past = [
                    rewards[replica][groups[replica] == k].flatten()
                    for rewards, groups in zip(recorder.received[:step], recorder.seen[:step], strict=True)
                ]
                values = torch.cat(past)[-(remembered or sys.maxsize) :]
                if len(values):
                    means[str(k)] = values.mean().item()
            completions = completions_of(recorder, replica, step)
            components = recent_components(completions, completions.reward_N, means)
            if components:
                found.append(efficiencies(list(components.values()), world.num_generations))
    return {name: statistics.fmean(one[name] for one in found) for name in COMPARED}


def studied(world: World, seeds: int, tuning_seeds: int) -> Regime:
    """All estimators in a regime, and what is predicted from the runs of pgrpo."""
    tuning = Draws.of(world, range(TUNING_SEED, TUNING_SEED + tuning_seeds), STEPS)
    tuning = tuning.repeated(len(LEARNING_RATES))
    rates_S = torch.tensor(LEARNING_RATES).repeat_interleave(tuning_seeds)
    evaluation, recorder, areas = Draws.of(world, range(seeds), STEPS), Recorder(), {}
    for name in COMPARED:
        estimator = resolve_estimator(name)
        tuned = measured(train(world, tuning, estimator, rates_S))["area"].view(len(LEARNING_RATES), -1)
        rate = LEARNING_RATES[int(tuned.mean(1).argmax())]
        course = recorder if name == "pgrpo" else Course()
        trained = train(world, evaluation, estimator, torch.full((seeds,), rate), course=course)
        areas[name] = measured(trained)["area"]
    difference = areas["pgrpo"] - areas["grpo"]
    kind = world.history.kind
    remembered = {"cumulative": None, "window": world.history.window, "ema": 200}[kind]
    return Regime(
        predictions(recorder, world, remembered),
        {name: values.mean().item() for name, values in areas.items()},
        difference.mean().item(),
        1.96 * difference.std().item() / seeds**0.5,
    )


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's, for values without ties."""

    def ranks(values: Sequence[float]) -> list[float]:
        return torch.tensor(values).argsort().argsort().double().tolist()

    return statistics.correlation(ranks(one), ranks(other))


def text_of(found: dict[str, Regime]) -> str:
    """The table, and how well the prediction ranks the regimes."""
    ratios = [one.predicted["pgrpo"] / one.predicted["grpo"] for one in found.values()]
    rows = [
        [name, *(f"{one.predicted[e]:.2f}" for e in COMPARED), f"{ratio:.2f}",
         *(f"{one.areas[e]:.3f}" for e in COMPARED), f"{one.difference:+.3f} ± {one.error:.3f}"]
        for (name, one), ratio in sorted(zip(found.items(), ratios, strict=True), key=lambda pair: -pair[1])
    ]  # fmt: skip
    heading = ["regime", *(f"predicted `{e}`" for e in COMPARED), "`pgrpo` / `grpo`",
               *(f"area `{e}`" for e in COMPARED), "`pgrpo` − `grpo`"]  # fmt: skip
    parts = [table(heading, rows)]
    if len(found) > 2:
        rho = rank_correlation(ratios, [one.difference for one in found.values()])
        parts = [f"Rank correlation of predicted ratio and difference of areas: {rho:.2f}.", "", *parts]
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--regimes", nargs="+", choices=REGIMES, default=list(REGIMES), metavar="REGIME")
    parser.add_argument("--seeds", type=int, default=24, help="evaluation seeds, 8 or more (default 24)")
    parser.add_argument("--tuning-seeds", type=int, default=6, help="seeds that choose the rate (default 6)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="renew the table between FILE's markers")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    progress, found = Console(stderr=True), {}
    for name in arguments.regimes:
        found[name] = studied(REGIMES[name], arguments.seeds, arguments.tuning_seeds)
        progress.print(name, highlight=False)
    text = text_of(found)
    Console(soft_wrap=True).print(text, markup=False, highlight=False)
    if arguments.write:
        renew(arguments.write, "advice", text)


if __name__ == "__main__":
    main()
