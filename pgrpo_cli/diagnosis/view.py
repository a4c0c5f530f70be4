"""What the rules look at: plain data about a run so far, as columns.

Axes: N completions of the latest steps, in the order of training; P their generation groups; L lines of
metrics.jsonl.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
"""Latest steps whose completions are looked at: long enough for a preference group with 3 % of the prompts to
show ten of them at 8 prompts a step, short enough to be about the present."""
RECENT_STEPS = 10
"""Steps that count as the present where it is compared with the past."""
MIN_STEPS = 10
"""No rule speaks before: the first steps are noise, and a run that short is a trial."""
_LARGEST = 1e100


@dataclass(frozen=True)
class PastRewards:
    """The reward history of one preference group: rewards received, mean, sample standard deviation."""

    n: float
    mean: float
    std: float


@dataclass(frozen=True)
class GenerationGroups:
    """The generation groups of some completions. Missing rewards are left out of counts, means and bounds."""

    step_P: Whole
    preference_group_P: Whole
    size_P: Whole
    """Completions."""
    counted_P: Whole
    """Completions with a reward."""
    low_P: Floats
    high_P: Floats
    mean_P: Floats
    """NaN where there is no reward."""
    distinct_P: Whole
    """Different texts."""


@dataclass(frozen=True)
class Completions:
    """Scored completions; those of one prompt stand together."""

    step_N: Whole
    prompt_N: Whole
    """Position of the prompt in its step."""
    preference_group_N: Whole
    """Index into `preference_groups`."""
    preference_groups: tuple[str, ...]
    reward_N: Floats
    """NaN where it is missing."""
    parts: Mapping[str, Floats]
    """[N] each; NaN where a part was not recorded."""
    length_N: Whole
    """Tokens."""
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
        """What each generation group holds."""
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
    """Mean rewards by step and preference group (M): when, whose (a number), of how many rewards."""

    step_M: Floats
    preference_group_M: Whole
    count_M: Floats
    mean_M: Floats


@dataclass(frozen=True)
class Metrics:
    """Lines of metrics.jsonl, in order: all of a run, or of a long one the first and the latest."""

    lines: Sequence[Mapping[str, Any]]

    @cached_property
    def step_L(self) -> Floats:
        """Steps."""
        return self["step"]

    def __getitem__(self, key: str) -> Floats:
        """A number of every line; NaN where a line has none."""
        return _floats([line.get(key) for line in self.lines])

    def latest(self, key: str, count: int = RECENT_STEPS) -> Floats:
        """That number in the latest `count` lines, those without it left out."""
        values = self[key][-count:]
        return values[~np.isnan(values)]

    def earliest(self, key: str, count: int = RECENT_STEPS) -> Floats:
        """The same of the first lines."""
        values = self[key][:count]
        return values[~np.isnan(values)]

    @cached_property
    def step_means(self) -> StepMeans:
        """The mean rewards of all lines."""
        rows = [
            (line["step"], name, found["n"], found["mean"])
            for line in self.lines
            for name, found in line.get("groups", {}).items()
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
    """Prepared prompts by preference group, of which there may be a million."""

    counts: Mapping[str, int]

    @cached_property
    def ascending(self) -> list[tuple[int, str]]:
        """(prompts, preference group), the rarest first; those without any are left out."""
        return sorted((count, name) for name, count in self.counts.items() if count > 0)

    @cached_property
    def total(self) -> int:
        """All of them."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class RunView:
    """A run so far."""

    recipe: Recipe
    metrics: Metrics
    completions: Completions
    """Of the latest steps, at most `WINDOW_STEPS`."""
    histories: Mapping[str, PastRewards]
    """Of the preference groups in `completions`."""
    training_prompts: TrainingPrompts
    """Empty if unknown."""

    @property
    def estimator(self) -> Estimator:
        """How its advantages are made."""
        section = self.recipe.advantage
        return resolve_estimator(section.estimator, section.baseline, section.scale, section.epsilon)

    @property
    def step(self) -> int:
        """Steps done."""
        of_metrics = int(self.metrics.step_L[-1]) if len(self.metrics.lines) else 0
        of_completions = int(self.completions.step_N[-1]) if len(self.completions) else 0
        return max(of_metrics, of_completions)


GroupMask = tuple[str | None, Flags]
"""A preference group (None: all of them) and which completions or generation groups are its own."""


def group_masks(
    preference_group_X: Whole, names: Sequence[str], usable_X: Flags, least: int
) -> list[GroupMask]:
    """The preference groups with `least` usable elements, or all of them as one if none has so many by itself
    and they have together.
    """
    counts = np.bincount(preference_group_X[usable_X], minlength=len(names))
    found: list[GroupMask] = [
        (names[index], usable_X & (preference_group_X == index))
        for index in np.flatnonzero(counts >= least).tolist()
    ]
    if not found and counts.sum() >= least:
        return [(None, usable_X)]
    return found


def _floats(values: Sequence[Any]) -> Floats:
    """Numbers; NaN for what is none, and for what is so large that its square is none."""
    return np.array(
        [float(v) if isinstance(v, int | float) and abs(v) < _LARGEST else math.nan for v in values],
        np.float64,
    )
