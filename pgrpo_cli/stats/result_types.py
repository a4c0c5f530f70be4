"""What an evaluation says: plain data, the same in memory, on disk and in `--json`.

Numbers that are unknown (the interval of a single prompt, the reward of a completion without a score)
are NaN in memory and null in JSON.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

EVAL_VERSION = 2

Which = Literal["base", "tuned"]
Unit = Literal["prompt", "user"]
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


class EvalRow(Data):
    """One scored completion. `length` is in tokens; `finished` is false where it was cut at the limit.

    `kl`: estimated KL(tuned || base) a token over it, in nats; unknown for the base model's.
    """

    prompt_id: str
    preference_group: str
    which: Which
    completion_index: int
    reward: Number
    parts: dict[str, Number]
    kl: Number = math.nan
    length: int
    finished: bool
    text: str


class Detail(Data):
    """More about a preference group, or about all, each counted once (macro); docs/metrics.md has formulas.

    `units` are what intervals resample. `parts`: the reward's parts by name. `win_rate`: share of pairs of
    completions to one prompt that the tuned model wins. `improved`: share of prompts with a higher mean.
    `effect`: the gain in standard deviations of the reward; unknown over groups and without spread.
    """

    units: int
    parts: dict[str, Contrast]
    win_rate: Estimate
    improved: Estimate
    effect: Number


class Worst(Data):
    """The preference group that gains least; the interval holds whichever group that is."""

    preference_group: str
    gain: Estimate


class Minority(Data):
    """Gains of preference groups with less than `share` of the training prompts against the others' gains.

    Each is a mean over preference groups; `gap` is minority minus majority, unknown where one is empty.
    """

    share: float
    preference_groups: list[str]
    minority: Estimate
    majority: Estimate
    gap: Estimate


class Fairness(Data):
    """How gains are shared between preference groups; unknown with a single one.

    `range` is the largest minus the smallest gain, `std` the standard deviation of the gains, and
    `std_beyond_noise` what is left of that without the noise of few prompts, all in reward units.
    """

    worst: Worst | None
    range: Number
    std: Number
    std_beyond_noise: Number
    jain: Number
    minority: Minority


class Fluency(Data):
    """How a model writes. `perplexity` is that of a neutral text, a token; `length` is in tokens.

    `distinct_1`, `distinct_2`: different words and pairs of words over all of them, in all completions.
    """

    perplexity: Number
    distinct_1: Number
    distinct_2: Number
    length: Number
    truncated: Number


class Kept(Data):
    """What is left of the base model. `kl` is KL(tuned || base) a token in nats, by preference group too."""

    base: Fluency
    tuned: Fluency
    kl: Estimate
    groups: dict[str, Estimate]


class Matrix(Data):
    """Completions made for each preference group (rows) by the reward of each (columns).

    `rewards`: labels of the rewards in it, those that depend on the preference group. `base` and `tuned` are
    mean rewards over prompts; `centers` and `scales` are mean and standard deviation of each column over all
    completions of both models. `margin`, in those deviations, is the diagonal less the rest of its row.
    """

    preference_groups: list[str]
    rewards: list[str]
    base: list[list[Number]]
    tuned: list[list[Number]]
    centers: list[Number]
    scales: list[Number]
    margin: Contrast


class JudgedPair(Data):
    """Completions of both models to one prompt, compared by a judge in both orders.

    `shown_first`, `shown_second`: what the tuned one got where it was shown first, and second: 1 better,
    0.5 alike, 0 worse, unknown where the judge did not say.
    """

    prompt_id: str
    preference_group: str
    completion_index: int
    shown_first: Number
    shown_second: Number


class Preference(Data):
    """Of a preference group, or of all, each counted once (macro): which model a judge prefers.

    `win`, `tie` and `loss` are shares of the pairs of a prompt, from the tuned model's side, and means over
    prompts; `win_rate` is win + tie / 2. `contradictions` are pairs in which the judge preferred whichever
    was shown first, or second: ties. `failed` are pairs left out because it did not say.
    """

    win: Estimate
    tie: Estimate
    loss: Estimate
    win_rate: Estimate
    pairs: int
    contradictions: int
    failed: int


class Judged(Data):
    """The base model and the tuned one compared by a language model; `judge` is its section of the recipe."""

    judge: dict[str, Any]
    groups: dict[str, Preference]
    macro: Preference
    pairs: list[JudgedPair]


class TaskScore(Data):
    """A metric of a task, or group of tasks, of lm-eval: both models on the same documents.

    `filter` is what lm-eval does to answers before it scores them; `version` the task's. `part_of`: the group
    of tasks whose own score this one is in. Intervals are unknown where the metric is no mean over documents.
    """

    task: str
    metric: str
    filter: str
    part_of: str | None
    higher_is_better: bool | None
    num_fewshot: int | None
    version: str | None
    scores: Contrast


class TaskScores(Data):
    """Tasks of lm-eval. `settings` is the section of the recipe, `lm_eval_version` the package's.

    `files_hash`: SHA-256 over the files in `settings["include_path"]`.
    """

    settings: dict[str, Any]
    lm_eval_version: str
    files_hash: str | None
    scores: list[TaskScore]


class Header(Data):
    """What an evaluation depends on. Hashes are SHA-256; `versions` are those of packages."""

    version: Literal[2] = 2
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
    """The numbers of an evaluation. `notes` say what a reader must know before believing them.

    `unit` is what intervals resample: users where one has several prompts. `weights`: training prompts of
    each preference group. `details` go by preference group.
    """

    unit: Unit
    groups: dict[str, Contrast]
    overall: Overall
    details: dict[str, Detail]
    macro_detail: Detail
    fairness: Fairness
    weights: dict[str, float]
    notes: list[str]


class EvalResult(Summary, Header):
    """One evaluation with every completion. By prompt id: `prompts` are the texts, `users` who asked.

    `judged` is None without `eval.judge`, and until that has answered; `lm_eval` without that section, and
    until its tasks are done.
    """

    kept: Kept
    matrix: Matrix | None
    judged: Judged | None = None
    lm_eval: TaskScores | None = None
    prompts: dict[str, str]
    users: dict[str, str] = {}
    rows: list[EvalRow]


CurvePoint = tuple[int, str, float, int]
"""Step, preference group, mean reward of the completions of that step, and their number."""
