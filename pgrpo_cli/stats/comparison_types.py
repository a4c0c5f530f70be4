"""The result of a comparison, in memory and in `--json`; see `result_types.py`."""

from __future__ import annotations

from typing import Any, Literal

from .result_types import Data, Estimate, Number, Unit, Verdict


class Pair(Data):
    """One line of a comparison: the tuned model of `run` minus that of `reference`, paired over `n` prompts.

    `run` and `reference` are labels of runs, or of methods if seeds are grouped. `preference_group` is None
    on the macro line, where each preference group counts once. Intervals resample `units` units, which are
    prompts, or users if a user has several prompts. docs/metrics.md has the formulas.
    """

    run: str
    reference: str
    preference_group: str | None
    difference: Number
    ci_low: Number
    ci_high: Number
    n: int
    unit: Unit
    units: int
    verdict: Verdict
    run_mean: Number
    reference_mean: Number
    seeds: int
    effect_size: Number
    p_value: Number
    p_adjusted: Number
    needed: int | None
    explanation: str


class Method(Data):
    """Runs that differ only in their seeds, or a single run. `label` names it in all lines."""

    label: str
    runs: list[str]
    seeds: list[int]


CurveSource = Literal["held-out", "training"]


class Learning(Data):
    """How fast a method learns in one preference group (None: the macro mean), over its seeds.

    - `source`: which rewards the curve shows.
    - `area`: the mean height of the curve over the steps that all runs have.
    - `area_difference`: the area minus that of the reference. Its interval is over prompts and seeds, as in
      `Pair`, if the curves have values by prompt; else over seeds.
    - `area_verdict`, `area_explanation`: as in `Pair`; None and empty for the reference.
    - `reached`: how many seeds reach `threshold`.
    - `steps`, `seconds`: how long the curve needs to reach it; unknown unless all seeds do.
    """

    method: str
    preference_group: str | None
    source: CurveSource
    area: Estimate
    area_difference: Estimate
    area_verdict: Verdict | None
    area_explanation: str
    threshold: Number
    reached: int
    steps: Estimate
    seconds: Estimate


class ComparedRun(Data):
    """One run of a comparison. `differs`: the recipe keys that differ between the runs, with its values."""

    run: str
    step: int
    macro: Estimate
    differs: dict[str, Any]


class Comparison(Data):
    """The result of `pgrpo compare`. The first run, or its method, is the reference.

    `by`: the recipe keys in which methods differ; empty if every run is a method of its own.
    """

    version: Literal[1] = 1
    reference: str
    confidence: float
    by: list[str]
    methods: list[Method]
    runs: list[ComparedRun]
    pairs: list[Pair]
    learning: list[Learning]
    notes: list[str]
