"""Rule about majority capture: answers to some preference groups become those to another one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from statistics import fmean, variance

import numpy as np

from .finding import Finding, Rule, percent, shown
from .spread import difficulty
from .view import RECENT_STEPS, Completions, Floats, RunView

RISEN = 0.5
"""Standard deviations by which the reward of the preference group has risen that others are compared with."""
STILL = 0.25
"""Standard deviations. The reward of a preference group that rises by more gains something of its own."""
FOLLOWED = 0.75
"""Share of the other preference group's change in words. Answers that share a task change together to some
extent: in healthy runs of SmolLM2 (quickstart, thumbs) up to 0.7 of it is shared.
"""
SURELY_FOLLOWED = 0.5
"""The same share minus two standard errors."""
LEAST_PROMPTS = 4
"""Prompts in the first and in the last steps, for a mean and its error."""
LEAST_OF_FIRST = 8
"""The same for the preference group that others are compared with: its prompts are halved."""
MOST_COMPARED = 3
"""Preference groups that others are compared with, those with the most prompts."""
MOST_PROMPTS = 64
"""Prompts that are read of a preference group: enough for any share."""
_SHOWN_NAMES = 5
_SHOWN_WORDS = 3
_SHOWN_RISE, _SHOWN_LETTERS = 0.1, 3
"""Words are named that stand in so many more of the answers, and that are no particles."""
_WORD = re.compile(r"\w+|[^\w\s]")

Words = Mapping[str, float]
"""For each word, the share of a prompt's completions in which it stands."""


@dataclass(frozen=True)
class Followed:
    """How far answers to a preference group have followed those to another one: 1 as far as these have
    changed themselves, 0 not at all. `error`: its standard error. `words`: those that have become more
    frequent in the answers to the other one, the most so first. None as share: the other one's have not
    certainly changed.
    """

    share: float | None
    error: float
    words: tuple[str, ...]


def followed(
    first: Sequence[Words], now: Sequence[Words], others_first: Sequence[Words], others_now: Sequence[Words]
) -> Followed:
    """`first`, `now`: the prompts of the preference group that others are compared with, at least two each;
    `others_*`: those of the other one.

    The direction of the change is the difference of two means over prompts. It is taken from one half of the
    prompts of `first` and `now` and measured in the other half: in one and the same half chance would count
    as a change of its own.
    """
    moved, errors, directions = [], [], []
    for half in (0, 1):
        direction = _difference(now[half::2], first[half::2])
        ours = [_along(direction, prompts[1 - half :: 2]) for prompts in (now, first)]
        moved.append(fmean(ours[0]) - fmean(ours[1]))
        # Both halves together have half of the variance of one.
        errors.append(_squared_error(*ours) / 2)
        directions.append(direction)
    # Their mean direction: what the others have moved along it is the mean of what they have along each.
    mean = {w: fmean(d.get(w, 0.0) for d in directions) for w in {*directions[0], *directions[1]}}
    theirs = [_along(mean, prompts) for prompts in (others_now, others_first)]
    own, own_error = fmean(moved), math.sqrt(fmean(errors))
    telling = (w for w in mean if mean[w] >= _SHOWN_RISE and w.isalpha() and len(w) >= _SHOWN_LETTERS)
    more = tuple(sorted(telling, key=lambda w: (-mean[w], w))[:_SHOWN_WORDS])
    if own <= 2 * own_error or own <= 0:
        return Followed(None, math.inf, more)
    share = (fmean(theirs[0]) - fmean(theirs[1])) / own
    error = math.sqrt(_squared_error(*theirs) + (share * own_error) ** 2) / own
    return Followed(share, error, more)


def _difference(now: Sequence[Words], first: Sequence[Words]) -> dict[str, float]:
    found: dict[str, float] = {}
    for prompts, sign in ((now, 1.0), (first, -1.0)):
        for words in prompts:
            for word, share in words.items():
                found[word] = found.get(word, 0.0) + sign * share / len(prompts)
    return found


def _along(direction: Words, prompts: Sequence[Words]) -> list[float]:
    return [sum(direction.get(word, 0.0) * share for word, share in words.items()) for words in prompts]


def _squared_error(now: Sequence[float], first: Sequence[float]) -> float:
    """Of the difference of the two means; 0 for single numbers, which have no spread."""
    return sum(variance(values) / len(values) for values in (now, first) if len(values) > 1)


@dataclass(frozen=True)
class _Side:
    """The completions of one preference group in the first or the last steps; `spans`: its prompts."""

    completions: Completions
    spans: tuple[slice, ...]

    @cached_property
    def rewards(self) -> Floats:
        found = [self.completions.reward_N[span] for span in self.spans]
        rewards = np.concatenate(found) if found else np.zeros(0)
        return rewards[~np.isnan(rewards)]

    @cached_property
    def mean(self) -> float:
        return float(self.rewards.mean())

    @cached_property
    def squared_error(self) -> float:
        """Of the mean, over prompts: rewards of one prompt are not independent."""
        means = [float(np.nanmean(self.completions.reward_N[span])) for span in self.spans]
        return variance(means) / len(means)

    @cached_property
    def words(self) -> list[Words]:
        """Of each prompt."""
        return [words_of(self.completions.texts_N[span]) for span in self.spans[-MOST_PROMPTS:]]


def words_of(texts: Sequence[str]) -> Words:
    """Words and signs, as they are written, of the completions of a prompt."""
    found: dict[str, float] = {}
    for text in texts:
        for word in set(_WORD.findall(text)):
            found[word] = found.get(word, 0.0) + 1 / len(texts)
    return found


@dataclass(frozen=True)
class _Change:
    """A preference group in the first and in the last steps."""

    name: str
    first: _Side
    now: _Side

    @property
    def prompts(self) -> int:
        return min(len(self.first.spans), len(self.now.spans))

    @cached_property
    def std(self) -> float:
        """Of all its rewards in both."""
        return float(np.concatenate([self.first.rewards, self.now.rewards]).std())

    @property
    def rise(self) -> float:
        return self.now.mean - self.first.mean

    @property
    def has_risen(self) -> bool:
        error = math.sqrt(self.first.squared_error + self.now.squared_error)
        return self.rise > max(RISEN * self.std, 2 * error)

    def has_followed(self, other: _Change) -> Followed | None:
        """None if it has not, as far as that is certain."""
        found = followed(other.first.words, other.now.words, self.first.words, self.now.words)
        if found.share is None or found.share < FOLLOWED or found.share - 2 * found.error < SURELY_FOLLOWED:
            return None
        return found


def find_captured(view: RunView) -> Iterator[Finding]:
    """Preference groups whose answers have changed as those to another one have, which alone gains by it.

    The requests may differ between preference groups: what is compared is how the words of their answers
    have changed since the first steps, not the answers themselves.
    """
    changes = _changes(view)
    taught = [change for change in changes if change.prompts >= LEAST_OF_FIRST and change.has_risen]
    left = [change for change in changes if change.rise <= STILL * change.std and not _at_top(view, change)]
    for first in sorted(taught, key=lambda change: -change.prompts)[:MOST_COMPARED]:
        found = [(change, share) for change in left if (share := change.has_followed(first))]
        if found:
            left = [change for change in left if all(change is not other for other, _ in found)]
            yield _captured(view, first, found)


def _captured(view: RunView, first: _Change, found: Sequence[tuple[_Change, Followed]]) -> Finding:
    names = [repr(change.name) for change, _ in found]
    share = min(followed.share or 0.0 for _, followed in found)
    before, now = (fmean(getattr(change, side).mean for change, _ in found) for side in ("first", "now"))
    listed = ", ".join(names[:_SHOWN_NAMES])
    if len(names) > _SHOWN_NAMES:
        listed += f" and {len(names) - _SHOWN_NAMES} more"
    who, way = f"{len(found)} preference groups ({listed})", f"at least {percent(min(share, 1.0))}"
    rest = f"theirs have not ({shown(before)} to {shown(now)} on average)"
    if len(found) == 1:
        who, way = f"preference group {listed}", percent(min(share, 1.0))
        rest = f"its own has not ({shown(before)} to {shown(now)})"
    words = ", ".join(map(repr, found[0][1].words))
    named = f", for instance by more of {words}" if words else ""
    return Finding(
        "majority-capture",
        first.name,
        "warning",
        f"Answers to {who} have become those to {first.name!r}: since the first {RECENT_STEPS} steps their "
        f"words have changed {way} as far in the same direction{named}. The reward of {first.name!r} has "
        f"risen from {shown(first.first.mean)} to {shown(first.now.mean)}, {rest}.",
        _remedy(view),
        {
            "preference_groups": len(found),
            "followed": share,
            "reward_first": before,
            "reward_now": now,
            "other_reward_first": first.first.mean,
            "other_reward_now": first.now.mean,
        },
    )


def _remedy(view: RunView) -> str:
    """In the order of what helped most in the small policy."""
    train, beta = view.recipe.train, max(0.04, 2 * view.recipe.loss.beta)
    sampler = "" if train.sampler == "balanced" else "train.sampler=balanced, and "
    return (
        f"In a new run set {sampler}train.learning_rate={shown(train.learning_rate / 4)} with "
        f"train.steps={4 * train.steps}, or train.prompts_per_step={4 * train.prompts_per_step}: then none "
        f"runs ahead before the others are found. loss.beta={shown(beta)} helps less surely. Say clearly who "
        "asks (`data.conditioning`), and give each preference group a reward that it earns now and then from "
        "the start. docs/mechanisms.md has the measurements, under Majority capture."
    )


def _at_top(view: RunView, change: _Change) -> bool:
    """Where nothing is left to gain, nothing is lost by other words."""
    return difficulty(view, change.name, change.now.mean) == "too easy"


def _changes(view: RunView) -> list[_Change]:
    """The preference groups with enough prompts in the first and in the last steps, by name."""
    if view.step < 2 * RECENT_STEPS:
        return []
    first = _sides(view.first_completions, 0, RECENT_STEPS)
    now = _sides(view.completions, view.step - RECENT_STEPS, view.step)
    found = [_Change(name, first[name], now[name]) for name in sorted(first.keys() & now.keys())]
    return [change for change in found if change.prompts >= LEAST_PROMPTS]


def _sides(completions: Completions, after: int, until: int) -> dict[str, _Side]:
    """By preference group, what it has in the steps above `after`, up to `until`. Prompts without a reward
    are left out.
    """
    groups = completions.generation_groups
    usable_P = (groups.step_P > after) & (groups.step_P <= until) & (groups.counted_P > 0)
    bounds = [*completions.starts_P.tolist(), len(completions)]
    spans = [slice(start, end) for start, end in pairwise(bounds)]
    found: dict[str, list[slice]] = {}
    for index in np.flatnonzero(usable_P).tolist():
        name = completions.preference_groups[groups.preference_group_P[index]]
        found.setdefault(name, []).append(spans[index])
    return {name: _Side(completions, tuple(own)) for name, own in found.items()}


def _lacks(view: RunView) -> str | None:
    if view.step < 2 * RECENT_STEPS:
        return f"{2 * RECENT_STEPS} steps are needed to compare the first with the last ones"
    if len(_changes(view)) < 2:
        return (
            f"fewer than two preference groups have {LEAST_PROMPTS} prompts in both the first and the last "
            f"{RECENT_STEPS} steps"
        )
    return None


RULES = (Rule("majority-capture", "Do preference groups keep answers of their own?", _lacks, find_captured),)
