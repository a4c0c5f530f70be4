"""The result of an evaluation: the same data in memory, on disk and in `--json`.

Unknown numbers (the interval of a single prompt, the reward of a completion without a score) are NaN in
memory and null in JSON.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

EVAL_VERSION = 2

Which = Literal["base", "tuned"]
Unit = Literal["prompt", "user"]
Verdict = Literal["ahead", "behind", "no difference", "can't tell"]

Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]


class Data(BaseModel):
    """Immutable data that accepts no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Estimate(Data):
    """A mean reward, or a difference of two, with its interval over `n` prompts, in reward units."""

    mean: Number
    ci_low: Number
    ci_high: Number
    n: int


class SeedRange(Data):
    """Steps or seconds of `n` seeds: their mean, smallest and largest; all unknown if one of them is.

    They have no interval, since they are far from normal and seeds are few. Student's would extend below 0,
    or have no length if all seeds reach a reward at the same recorded step.
    """

    mean: Number
    smallest: Number
    largest: Number
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> SeedRange:
        known = values if not any(map(math.isnan, values)) else [math.nan]
        return cls(mean=fmean(known), smallest=min(known), largest=max(known), n=len(values))


def _as_estimate(value: Any) -> Any:
    """A number alone, as older results have it, becomes an estimate without an interval."""
    if value is None or isinstance(value, int | float):
        return {"mean": value, "ci_low": None, "ci_high": None, "n": 0}
    return value


class Contrast(Data):
    """Base and tuned model on the same prompts. `difference` is tuned minus base, paired by prompt."""

    base: Estimate
    tuned: Estimate
    difference: Estimate


class Overall(Data):
    """Means over preference groups: `macro` counts each once, `weighted` uses `EvalResult.weights`."""

    macro: Contrast
    weighted: Contrast


class EvalRow(Data):
    """One scored completion. `length` is in tokens; `finished` is false if it was cut off at the limit.

    `kl`: the estimated KL(tuned || base) per token, in nats; unknown for completions of the base model.
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
    """More numbers of a preference group, or of all, each counted once (macro). Formulas: docs/metrics.md.

    - `units`: how many units intervals resample.
    - `parts`: the parts of the reward, by name.
    - `win_rate`: the share of pairs of completions to one prompt that the tuned model wins.
    - `improved`: the share of prompts whose mean reward is higher.
    - `effect`: the gain in standard deviations of the base model's rewards in the group. Its interval takes
      that deviation as known.
    """

    units: int
    parts: dict[str, Contrast]
    win_rate: Estimate
    improved: Estimate
    effect: Annotated[Estimate, BeforeValidator(_as_estimate)]


class Worst(Data):
    """The preference group with the smallest gain. Its interval is corrected for having been chosen."""

    preference_group: str
    gain: Estimate


class Minority(Data):
    """The gains of preference groups with less than `share` of the training prompts, and those of the others.

    Each is a mean over preference groups. `gap` is minority minus majority; it is unknown if one is empty.
    """

    share: float
    preference_groups: list[str]
    minority: Estimate
    majority: Estimate
    gap: Estimate


class Fairness(Data):
    """How gains are distributed over preference groups; unknown with a single one.

    `range` is the largest minus the smallest gain. `std` is the standard deviation of the gains, and
    `std_beyond_noise` the same without the part that comes from few prompts. All are in reward units.
    """

    worst: Worst | None
    range: Number
    std: Number
    std_beyond_noise: Number
    jain: Number
    minority: Minority


class Fluency(Data):
    """How a model writes. `perplexity`: per token of a neutral text. `length`: mean number of tokens.

    `distinct_1`, `distinct_2`: the share of distinct words and of distinct pairs of words in all completions.
    """

    perplexity: Number
    distinct_1: Number
    distinct_2: Number
    length: Number
    truncated: Number


class Kept(Data):
    """How much of the base model is kept. `kl`: KL(tuned || base) per token in nats; `groups`: by group."""

    base: Fluency
    tuned: Fluency
    kl: Estimate
    groups: dict[str, Estimate]


class Matrix(Data):
    """Completions for each preference group (rows), scored by the rewards of each (columns).

    `rewards`: labels of the rewards that are used: those that depend on the preference group. `base` and
    `tuned` are mean rewards over prompts. `centers` and `scales` are mean and standard deviation of each
    column over all completions of both models. `margin` is the diagonal minus the mean of the other cells of
    its row, in units of `scales`.
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

    `shown_first`, `shown_second`: the score of the tuned model's completion when it was shown first or
    second: 1 better, 0.5 equal, 0 worse, unknown if the judge gave no answer.
    """

    prompt_id: str
    preference_group: str
    completion_index: int
    shown_first: Number
    shown_second: Number


class Preference(Data):
    """Which model a judge prefers, in a preference group or in all, each counted once (macro).

    `win`, `tie` and `loss` of the tuned model are shares of the pairs of a prompt, averaged over prompts;
    `win_rate` is win + tie / 2. `contradictions`: pairs in which the judge preferred the completion shown
    first in both orders, or the second in both; they count as ties. `failed`: pairs left out because the
    judge gave no answer.
    """

    win: Estimate
    tie: Estimate
    loss: Estimate
    win_rate: Estimate
    pairs: int
    contradictions: int
    failed: int


class Judged(Data):
    """Base and tuned model compared by a language model. `judge` is the section of the recipe."""

    judge: dict[str, Any]
    groups: dict[str, Preference]
    macro: Preference
    pairs: list[JudgedPair]


class TaskScore(Data):
    """A metric of a task, or of a group of tasks, of lm-eval: both models on the same documents.

    `filter`: how lm-eval filters answers before scoring. `version`: that of the task. `part_of`: the group of
    tasks whose score includes this one. Intervals are unknown if the metric is not a mean over documents.
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
    """Scores of lm-eval. `settings` is the section of the recipe, `lm_eval_version` that of the package.

    `files_hash`: SHA-256 over the files in `settings["include_path"]`.
    """

    settings: dict[str, Any]
    lm_eval_version: str
    files_hash: str | None
    scores: list[TaskScore]


class Header(Data):
    """Everything that an evaluation depends on. Hashes are SHA-256; `versions` are those of packages.

    `model_files`: hashes of the base model's files, as in fingerprint.json; None: not known.
    """

    version: Literal[2] = 2
    run: str
    step: int
    recipe: dict[str, Any]
    recipe_hash: str
    data_hash: str
    adapter_hash: str
    model: dict[str, Any]
    model_files: dict[str, str] | None = None
    rewards: list[dict[str, Any]]
    sampling: dict[str, Any]
    max_prompts_per_group: int | None
    seed: int
    bootstrap_samples: int
    confidence: float
    versions: dict[str, str]


class Summary(Data):
    """The numbers of an evaluation. `notes`: warnings that a reader of the numbers needs.

    `unit` is what intervals resample: users if a user has several prompts. `weights`: the number of training
    prompts of each preference group. `details`: by preference group.
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
    """One evaluation with every completion. `prompts`: the texts by prompt id; `users`: the users by prompt
    id.

    `judged` is None without `eval.judge`, and until the judge has answered. `lm_eval` is None without that
    section, and until its tasks are done.
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
