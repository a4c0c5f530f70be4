"""What an evaluation and a comparison say: plain data, the same in memory, on disk and in `--json`.

Numbers that are unknown (the interval of a single prompt, the reward of a completion without a score)
are NaN in memory and null in JSON.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

EVAL_VERSION = 1

Which = Literal["base", "tuned"]
Verdict = Literal["ahead", "behind", "no difference", "can't tell"]

Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]


class Data(BaseModel):
    """Frozen, strict about keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Estimate(Data):
    """A mean reward, or a difference of two, with its interval over `n` prompts, in reward units."""

    mean: Number
    ci_low: Number
    ci_high: Number
    n: int


class Contrast(Data):
    """The base model against the tuned one on the same prompts; `difference` is tuned minus base, paired."""

    base: Estimate
    tuned: Estimate
    difference: Estimate


class Overall(Data):
    """Over preference groups: `macro` counts each once, `weighted` by `EvalResult.weights`."""

    macro: Contrast
    weighted: Contrast


class Row(Data):
    """One scored completion. `length` is in tokens; `finished` is false where it was cut at the limit."""

    prompt_id: str
    preference_group: str
    which: Which
    completion_index: int
    reward: Number
    parts: dict[str, Number]
    length: int
    finished: bool
    text: str


class Header(Data):
    """What an evaluation depends on. Hashes are SHA-256; `versions` are those of packages."""

    version: Literal[1] = 1
    run: str
    step: int
    recipe: dict[str, Any]
    recipe_hash: str
    data_hash: str
    adapter_hash: str
    model: dict[str, Any]
    rewards: list[dict[str, Any]]
    sampling: dict[str, Any]
    max_prompts_per_group: int | None
    seed: int
    bootstrap_samples: int
    confidence: float
    versions: dict[str, str]


class Summary(Data):
    """The numbers of an evaluation. `notes` say what a reader must know before believing them."""

    groups: dict[str, Contrast]
    overall: Overall
    weights: dict[str, float]
    notes: list[str]


class EvalResult(Summary, Header):
    """One evaluation with every completion. `prompts` are the rendered texts by prompt id."""

    prompts: dict[str, str]
    rows: list[Row]


class Pair(Data):
    """One line of a comparison: `run` minus `reference`, tuned models, paired by prompt, over `n` prompts.

    `run` and `reference` are labels of runs, or of methods where seeds are grouped. `preference_group` is
    None on the macro line, where each preference group counts once. docs/metrics.md has the formulas.
    """

    run: str
    reference: str
    preference_group: str | None
    difference: Number
    ci_low: Number
    ci_high: Number
    n: int
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
    have; `area_difference`: that, minus the reference's. `steps` and `seconds` until the curve is at
    `threshold`, which `reached` of the seeds attain; unknown unless all do.
    """

    method: str
    preference_group: str | None
    source: CurveSource
    area: Estimate
    area_difference: Estimate
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


CurvePoint = tuple[int, str, float, int]
"""Step, preference group, mean reward of the completions of that step, and their number."""
