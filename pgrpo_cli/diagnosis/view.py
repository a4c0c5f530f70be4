"""The data that rules read: the records of a run so far, as columns.

Axes: N completions of the latest steps, in the order of training; P generation groups of these; L lines of
metrics.jsonl.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgrpo_cli.algo.estimators import Estimator, resolve_estimator
from pgrpo_cli.recipe.schema import Recipe

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
Flags = NDArray[np.bool_]

WINDOW_STEPS = 40
"""The number of latest steps whose completions are read. With 8 prompts per step a preference group with 3 %
of the prompts has about ten prompts in them, and they are few enough to describe the current state.
"""
RECENT_STEPS = 10
"""The number of latest steps that count as recent where they are compared with earlier ones."""
MIN_STEPS = 10
"""No rule is applied before: the first steps are noise, and a run that short is a trial."""
_LARGEST = 1e100


@dataclass(frozen=True)
class PastRewards:
    """The reward history of one preference group: rewards received, mean, sample standard deviation."""

    n: float
    mean: float
    std: float


@dataclass(frozen=True)
class GenerationGroups:
    """Generation groups. Missing rewards are left out of counts, means, minima and maxima."""

    step_P: Whole
    preference_group_P: Whole
    size_P: Whole
    """Number of completions."""
    counted_P: Whole
    """Number of completions with a reward."""
    low_P: Floats
    high_P: Floats
    mean_P: Floats
    """NaN if there is no reward."""
    distinct_P: Whole
    """Number of distinct texts."""


@dataclass(frozen=True)
class Completions:
    """Scored completions; those of one prompt are consecutive."""

    step_N: Whole
    prompt_N: Whole
    """Index of the prompt in its step."""
    preference_group_N: Whole
    """Index into `preference_groups`."""
    preference_groups: tuple[str, ...]
    reward_N: Floats
    """NaN if it is missing."""
    parts: Mapping[str, Floats]
    """[N] each; NaN if a part was not recorded."""
    length_N: Whole
    """Number of tokens."""
    texts_N: tuple[str, ...]

    @classmethod
    def of(
        cls,
        *,
        steps: Sequence[int],
        prompts: Sequence[int],
        preference_groups: Sequence[str],
        rewards: Sequence[float | None],
        parts: Sequence[Mapping[str, float | None]],
        lengths: Sequence[int],
        texts: Sequence[str],
    ) -> Completions:
        """Columns from rows, one element per completion."""
        names = sorted(set(preference_groups))
        numbers = {name: index for index, name in enumerate(names)}
        keys = sorted({key for row in parts for key in row})
        return cls(
            np.array(steps, np.int64),
            np.array(prompts, np.int64),
            np.array([numbers[name] for name in preference_groups], np.int64),
            tuple(names),
            _floats(rewards),
            {key: _floats([row.get(key) for row in parts]) for key in keys},
            np.array(lengths, np.int64),
            tuple(texts),
        )

    @classmethod
    def none(cls) -> Completions:
        """No completions."""
        return cls.of(steps=(), prompts=(), preference_groups=(), rewards=(), parts=(), lengths=(), texts=())

    def __len__(self) -> int:
        return len(self.step_N)

    @property
    def scored_N(self) -> Flags:
        """Whether a completion has a reward."""
        return ~np.isnan(self.reward_N)

    def steps_text(self) -> str:
        """`steps 11 to 50`."""
        return f"steps {self.step_N[0]} to {self.step_N[-1]}" if len(self) else "no steps"

    @cached_property
    def starts_P(self) -> Whole:
        """Index of the first completion of each generation group."""
        if not len(self):
            return np.zeros(0, np.int64)
        new_N = (np.diff(self.step_N) != 0) | (np.diff(self.prompt_N) != 0)
        return np.concatenate([[0], np.flatnonzero(new_N) + 1]).astype(np.int64)

    @cached_property
    def generation_groups(self) -> GenerationGroups:
        """Statistics of each generation group."""
        starts = self.starts_P
        ends = np.append(starts[1:], len(self)).astype(np.int64)
        if not len(self):
            none, nothing = np.zeros(0, np.int64), np.zeros(0)
            return GenerationGroups(none, none, none, none, nothing, nothing, nothing, none)
        counted = np.add.reduceat(self.scored_N.astype(np.int64), starts)
        totals = np.add.reduceat(np.where(self.scored_N, self.reward_N, 0.0), starts)
        spans = zip(starts.tolist(), ends.tolist(), strict=True)
        return GenerationGroups(
            self.step_N[starts],
            self.preference_group_N[starts],
            ends - starts,
            counted,
            np.fmin.reduceat(self.reward_N, starts),
            np.fmax.reduceat(self.reward_N, starts),
            np.where(counted > 0, totals / np.maximum(counted, 1), np.nan),
            np.array([len(set(self.texts_N[start:end])) for start, end in spans], np.int64),
        )


@dataclass(frozen=True)
class StepMeans:
    """Mean rewards by step and preference group (M entries), with their numbers of rewards. Preference groups
    are numbered.
    """

    step_M: Floats
    preference_group_M: Whole
    count_M: Floats
    mean_M: Floats


@dataclass(frozen=True)
class Metrics:
    """The lines of metrics.jsonl, in order; for a long run only the first and the latest ones."""

    lines: Sequence[Mapping[str, Any]]

    @cached_property
    def step_L(self) -> Floats:
        """The step of each line."""
        return self["step"]

    def __getitem__(self, key: str) -> Floats:
        """The number with that key in every line; NaN if a line does not have it."""
        return _floats([line.get(key) for line in self.lines])

    def latest(self, key: str, count: int = RECENT_STEPS) -> Floats:
        """The number in the latest `count` lines, without lines that do not have it."""
        values = self[key][-count:]
        return values[~np.isnan(values)]

    def earliest(self, key: str, count: int = RECENT_STEPS) -> Floats:
        """The same for the first lines."""
        values = self[key][:count]
        return values[~np.isnan(values)]

    @cached_property
    def step_means(self) -> StepMeans:
        """The mean rewards of all lines."""
        rows = [
            (line["step"], name, group["n"], group["mean"])
            for line in self.lines
            for name, group in line.get("groups", {}).items()
        ]
        numbers = {name: index for index, name in enumerate(dict.fromkeys(row[1] for row in rows))}
        means = _floats([row[3] for row in rows])
        known = ~np.isnan(means)
        return StepMeans(
            _floats([row[0] for row in rows])[known],
            np.array([numbers[row[1]] for row in rows], np.int64)[known],
            _floats([row[2] for row in rows])[known],
            means[known],
        )


@dataclass(frozen=True)
class TrainingPrompts:
    """The number of training prompts of each preference group. There may be a million preference groups."""

    counts: Mapping[str, int]

    @cached_property
    def ascending(self) -> list[tuple[int, str]]:
        """(number of prompts, preference group), the rarest first, without those that have none."""
        return sorted((count, name) for name, count in self.counts.items() if count > 0)

    @cached_property
    def total(self) -> int:
        """The total number of prompts."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class Personalization:
    """The margin of the latest evaluation's personalization matrix, with its interval; and what `prepare`
    found of the prompts: whether they tell who asks (None: not known).
    """

    step: int
    margin: float
    ci_low: float
    ci_high: float
    ambiguous_share: float | None = None
    classifier_accuracy: float | None = None
    chance: float | None = None


@dataclass(frozen=True)
class RunView:
    """The records of a run so far."""

    recipe: Recipe
    metrics: Metrics
    completions: Completions
    """Of the latest steps, at most `WINDOW_STEPS`."""
    histories: Mapping[str, PastRewards]
    """Of the preference groups in `completions`."""
    training_prompts: TrainingPrompts
    """Empty if unknown."""
    personalization: Personalization | None = None
    """None as long as no evaluation has a matrix."""
    first_completions: Completions = field(default_factory=Completions.none)
    """Of the first `RECENT_STEPS` steps; none before twice as many are done."""

    @property
    def estimator(self) -> Estimator:
        """The estimator of its advantages."""
        section = self.recipe.advantage
        return resolve_estimator(section.estimator, section.baseline, section.scale, section.epsilon)

    @property
    def step(self) -> int:
        """The number of steps done."""
        of_metrics = int(self.metrics.step_L[-1]) if len(self.metrics.lines) else 0
        of_completions = int(self.completions.step_N[-1]) if len(self.completions) else 0
        return max(of_metrics, of_completions)


GroupMask = tuple[str | None, Flags]
"""A preference group (None: all of them), and a mask of its completions or generation groups."""


def group_masks(
    preference_group_X: Whole, names: Sequence[str], usable_X: Flags, least: int
) -> list[GroupMask]:
    """The preference groups with at least `least` usable elements. If there is none, but all of them together
    have enough, they are treated as one.
    """
    counts = np.bincount(preference_group_X[usable_X], minlength=len(names))
    masks: list[GroupMask] = [
        (names[index], usable_X & (preference_group_X == index))
        for index in np.flatnonzero(counts >= least).tolist()
    ]
    if not masks and counts.sum() >= least:
        return [(None, usable_X)]
    return masks


def _floats(values: Sequence[Any]) -> Floats:
    """An array of numbers; NaN for values that are not numbers, and for those whose square would overflow."""
    return np.array(
        [float(v) if isinstance(v, int | float) and abs(v) < _LARGEST else math.nan for v in values],
        np.float64,
    )
