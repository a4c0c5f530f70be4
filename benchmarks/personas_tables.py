"""What the personas study found: methods against each other, over seeds and held-out prompts.

`final`: the mean reward of the last point of a run's held-out curve; `area`: the mean height of that curve
over the steps (trapezoids). Both by prompt, so that intervals are over prompts and seeds together, as those
of `pgrpo compare` (pgrpo_cli/stats/methods.py): each persona counted once, paired by prompt.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from benchmarks.markdown import table
from benchmarks.personas_runs import RATES, Run
from benchmarks.study import Records
from pgrpo_cli.rewards.personas import PERSONAS
from pgrpo_cli.stats.intervals import Bootstrap
from pgrpo_cli.stats.methods import Difference, difference_of, holm, p_value, seeds_interval
from pgrpo_cli.stats.power import units_needed

MEASURES = ("area", "final")
RANDOM = "pgrpo, random groups"
CONTRASTS = (
    ("pgrpo", "grpo"),
    ("pgrpo_adaptive", "grpo"),
    ("pgrpo_adaptive", "pgrpo"),
    ("pgrpo_shrinkage", "grpo"),
    ("pgrpo_shrinkage", "pgrpo"),
    ("pgrpo_centered", "grpo"),
    ("dr_grpo", "grpo"),
    ("pgrpo", RANDOM),
)
LEAST_SEEDS, MOST_SEEDS, LAST = 3, 100, 5
MAJORITY = max(PERSONAS, key=lambda name: PERSONAS[name].share)

Values = dict[str, Tensor]
"""By persona, [S, P]: seeds by prompts."""


@dataclass(frozen=True)
class Method:
    """The runs of one method at its rate, seed by seed."""

    name: str
    rate: float
    records: tuple[Mapping[str, Any], ...]

    def values(self, measure: str) -> Values:
        """`area`, `final`, or `base`, the first point of the curve."""
        rows: dict[str, list[list[float]]] = defaultdict(list)
        for record in self.records:
            found: dict[str, list[float]] = defaultdict(list)
            for prompt in sorted(record["curve"][0]["prompts"]):
                found[persona_of(prompt)].append(_MEASURE[measure](record["curve"], prompt))
            for persona, values in found.items():
                rows[persona].append(values)
        return {name: torch.tensor(rows[name], dtype=torch.float64) for name in PERSONAS}

    def mean(self, measure: str, personas: Sequence[str] = tuple(PERSONAS)) -> float:
        """Over the first seeds, which all methods have, and over personas, each counted once."""
        values = self.values(measure)
        return fmean(float(values[name][:LEAST_SEEDS].mean()) for name in personas)


def persona_of(prompt_id: str) -> str:
    """`eval-terse-jazz-0003` is of terse-jazz, whatever preference group the prompt was put into."""
    return prompt_id.split("-", 1)[1].rsplit("-", 1)[0]


def methods_of(rates: Mapping[str, float], records: Records) -> dict[str, Method]:
    """The methods of which the first LEAST_SEEDS seeds have been run, with all that have been in a row."""
    methods = {}
    for name, rate in rates.items():
        runs = (Run(name, rate, seed).name for seed in itertools.count())
        found = tuple(records[run] for run in itertools.takewhile(records.__contains__, runs))
        if len(found) >= LEAST_SEEDS:
            methods[name] = Method(name, rate, found)
    return methods


def tables(methods: Mapping[str, Method], records: Records) -> str:
    """All results as Markdown."""
    pairs = [pair for pair in CONTRASTS if all(name in methods for name in pair)]
    first = next(iter(methods.values()))
    parts = [
        f"Means are over the first {LEAST_SEEDS} seeds; before training the macro reward is "
        f"{first.mean('base'):.3f}. `tuning`: mean training reward over the second half of seed 0's run at "
        f"the rates {', '.join(f'{rate:g}' for rate in RATES)}.",
        "",
        table(
            ["method", "rate", "seeds", "tuning", "area", "final", "majority", "others", "worst"],
            [_method_row(method, records) for method in methods.values()],
        ),
        "",
        "Each run: the held-out macro reward at the points of its curve; the mean advantage of its "
        "completions, which is minus the loss, over all steps; entropy in nats a token and length in tokens "
        f"over the last {LAST} steps; the mean of $w$ over preference groups at the end:",
        "",
        table(
            ["run", "curve", "advantage", "entropy", "length", "$w$"], [_run_row(r) for r in records.values()]
        ),
        "",
        "Differences of the macro reward on the seeds that both have, 95 % intervals over seeds and "
        "prompts; `=` where Holm's p over the rows is 0.05 or more, with the number of seeds that would tell "
        "such a difference apart:",
        "",
        table(["", *MEASURES], _contrast_rows(pairs, methods)),
        "",
        "The same without seed 0, whose runs chose the rates:",
        "",
        table(["", *MEASURES], _contrast_rows(pairs, methods, first_seed=1)),
        "",
        "Final reward by persona, its share of the training prompts in brackets; verdicts as above, Holm's "
        "correction over the personas:",
        "",
        *_by_persona(methods, pairs[:3]),
    ]
    return "\n".join(parts)


def _method_row(method: Method, records: Records) -> list[str]:
    runs = [records[Run(method.name, rate, 0).name] for rate in RATES]
    tuning = " / ".join(
        f"{fmean(run['training_reward'][len(run['training_reward']) // 2 :]):.3f}" for run in runs
    )
    others = [name for name in PERSONAS if name != MAJORITY]
    worst = min(method.mean("final", [name]) for name in PERSONAS)
    numbers = [method.mean("area"), method.mean("final"), method.mean("final", [MAJORITY])]
    numbers += [method.mean("final", others), worst]
    start = [f"`{method.name}`", f"{method.rate:g}", str(len(method.records)), tuning]
    return [*start, *(f"{value:.3f}" for value in numbers)]


def _run_row(record: Mapping[str, Any]) -> list[str]:
    curve = " → ".join(f"{_macro(point['prompts']):.3f}" for point in record["curve"])
    weights = [weight for weight in record["weights"].values() if weight is not None]
    return [
        f"`{record['method']}`, {record['rate']:g}, seed {record['seed']}",
        curve,
        f"{-fmean(record['loss']):+.2f}",
        f"{fmean(record['entropy'][-LAST:]):.2f}",
        f"{fmean(record['length'][-LAST:]):.0f}",
        f"{fmean(weights):.2f}" if weights else "n/a",
    ]


def _macro(prompts: Mapping[str, float]) -> float:
    """Each persona counted once."""
    values: dict[str, list[float]] = defaultdict(list)
    for prompt, value in prompts.items():
        values[persona_of(prompt)].append(value)
    return fmean(map(fmean, values.values()))


def _contrast_rows(
    pairs: Sequence[tuple[str, str]], methods: Mapping[str, Method], first_seed: int = 0
) -> list[list[str]]:
    columns = [
        _cells(
            [
                _contrast(methods[a].values(m), methods[b].values(m), list(PERSONAS), first_seed)
                for a, b in pairs
            ]
        )
        for m in MEASURES
    ]
    return [[f"`{a}` − `{b}`", *cells] for (a, b), *cells in zip(pairs, *columns, strict=True)]


def _by_persona(methods: Mapping[str, Method], pairs: Sequence[tuple[str, str]]) -> list[str]:
    columns = [
        _cells([_contrast(methods[a].values("final"), methods[b].values("final"), [p]) for p in PERSONAS])
        for a, b in pairs
    ]
    first = next(iter(methods.values()))
    rows = [
        [f"{name} ({persona.share:.0%})", f"{first.mean('base', [name]):.3f}", *cells]
        for (name, persona), *cells in zip(PERSONAS.items(), *columns, strict=True)
    ]
    return [table(["persona", "before", *(f"`{a}` − `{b}`" for a, b in pairs)], rows)]


def _contrast(ours: Values, theirs: Values, personas: Sequence[str], first_seed: int = 0) -> Difference:
    seeds = slice(first_seed, min(len(values[personas[0]]) for values in (ours, theirs)))
    return difference_of([(ours[name][seeds], theirs[name][seeds]) for name in personas])


def _cells(contrasts: Sequence[Difference]) -> list[str]:
    cells = []
    for difference, p in zip(contrasts, holm([p_value(found) for found in contrasts]), strict=True):
        interval = seeds_interval(difference, Bootstrap(samples=10_000))
        verdict = "ahead" if interval.mean > 0 else "behind"
        if not p < 0.05:
            needed = units_needed(difference, 0.05, MOST_SEEDS)
            verdict = f"= ({needed or f'over {MOST_SEEDS}'})"
        cells.append(f"{interval.mean:+.3f} [{interval.low:+.3f}..{interval.high:+.3f}] {verdict}")
    return cells


def _area(curve: Sequence[Mapping[str, Any]], prompt: str) -> float:
    points = [(point["step"], point["prompts"][prompt]) for point in curve]
    trapezoids = [(b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points)]
    return math.fsum(trapezoids) / (points[-1][0] - points[0][0])


_MEASURE: dict[str, Callable[[Sequence[Mapping[str, Any]], str], float]] = {
    "base": lambda curve, prompt: curve[0]["prompts"][prompt],
    "final": lambda curve, prompt: curve[-1]["prompts"][prompt],
    "area": _area,
}
