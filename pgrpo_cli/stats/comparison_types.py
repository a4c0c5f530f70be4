"""What a comparison says: plain data, the same in memory and in `--json`; see `result_types.py`."""

from __future__ import annotations

from typing import Any, Literal

from .result_types import Data, Estimate, Number, Unit, Verdict


class Pair(Data):
    """One line of a comparison: `run` minus `reference`, tuned models, paired by prompt, over `n` prompts.

    `run` and `reference` are labels of runs, or of methods where seeds are grouped. `preference_group` is
    None on the macro line, where each preference group counts once. `units` are what intervals resample:
    users where one has several prompts. docs/metrics.md has the formulas.
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
    """Runs that differ in nothing but their seeds, or a single run, by the label that lines go by."""

    label: str
    runs: list[str]
    seeds: list[int]


CurveSource = Literal["held-out", "training"]


class Learning(Data):
    """How fast a method learns in one preference group (None: the macro mean), over its seeds.

    `source`: whose rewards the curve is of. `area`: mean height of the curve over the steps that all runs
    have; `area_difference`: that, minus the reference's, over prompts and seeds as `Pair` is where the curves
    tell prompts apart, else over seeds; `area_verdict` and `area_explanation` as a pair's, None and empty for
    the reference. `steps` and `seconds` until the curve is at
    `threshold`, which `reached` of the seeds attain; unknown unless all do.
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
    """One run of a comparison. `differs`: recipe keys whose values differ between the runs, with its own."""

    run: str
    step: int
    macro: Estimate
    differs: dict[str, Any]


class Comparison(Data):
    """What `pgrpo compare` says; the first run, or its method, is the reference.

    `by`: the recipe keys that methods differ in; empty where every run stands for itself.
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
