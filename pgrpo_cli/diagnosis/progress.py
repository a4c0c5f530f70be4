"""Rules about progress: does the reward rise, and does the model stay near the base model? Also explanations
of numbers that look wrong but are normal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .finding import Finding, Rule, shown
from .spread import find_no_spread, reward_bounds
from .view import RECENT_STEPS, WINDOW_STEPS, Floats, RunView, Whole

LEAST_STEPS = 40
"""Steps after the warm-up before a reward that does not change is called stuck."""
LITTLE = 0.3
"""In standard deviations of the reward. A smaller change over a whole run is negligible. Between twice ten
steps of 36 completions it is about four standard errors, enough to distinguish many runs that do not learn
from those that do. There is no finding about the others.
"""
FALL_ERRORS = 4.0
"""How many standard errors a fall must be beyond 0. A run is looked at many times, and the best of its
earlier windows is chosen: two errors would be reached by chance in up to two thirds of runs, four in 3 %.
"""
KL_LARGE = 1.0
"""Nats per token: on average the tuned model then gives its own tokens e times the probability that the base
model gives them. A healthy run stays far below.
"""
KL_NOTHING = 1e-3
"""Nats per token. A model that has learnt a style has hundredths or tenths."""
TIGHT_BETA = 0.1
"""From this loss.beta on, the penalty itself may keep the model from moving."""
CLIPPED_STEPS = 20
"""How many consecutive steps must have clipped gradients."""
LOSS_NEAR_ZERO = 0.02
"""A printed loss below this looks like 0 to a reader."""
_ENOUGH_OF_RANGE = 0.9
_TWO_ERRORS = 2.0
_LEAST_DEGREES = 10


@dataclass(frozen=True)
class Change:
    """The mean reward of the latest steps less that of the earlier steps `since`, its standard error, and the
    rewards' spread.
    """

    rise: float
    error: float
    spread: float
    since: tuple[int, int]

    def highest(self, errors: float = _TWO_ERRORS) -> float:
        """An upper bound: the rise is most likely not larger."""
        return self.rise + errors * self.error

    def lowest(self) -> float:
        """A lower bound: the rise is most likely not smaller."""
        return self.rise - _TWO_ERRORS * self.error


def since_start(view: RunView) -> Change | None:
    """The change since the first steps. They are few, so that a run that learns early is seen to have learnt.
    None if too few means are known.
    """
    step = view.metrics.step_means.step_M
    return _change(view, step.min(), step.min() + RECENT_STEPS - 1) if len(step) else None


def since_best(view: RunView) -> Change | None:
    """The change since the earlier steps from which the reward has fallen most clearly. They are as many as
    the latest steps.
    """
    step = view.metrics.step_means.step_M
    if not len(step):
        return None
    length = _latest_steps(step)
    ends = np.arange(step.max() - length, step.min(), -length)
    changes = [change for end in ends if (change := _change(view, end - length + 1, end))]
    return min(changes, key=lambda change: change.highest(FALL_ERRORS), default=None)


def _latest_steps(step_M: Floats) -> int:
    """How many steps are the latest: a quarter of them, at least RECENT_STEPS and at most WINDOW_STEPS."""
    return min(WINDOW_STEPS, max(RECENT_STEPS, int(step_M.max() - step_M.min() + 1) // 4))


def _change(view: RunView, first: float, last: float) -> Change | None:
    """Between steps `first` to `last` and the latest ones, over the mean rewards of steps and preference
    groups, weighted by numbers of rewards. All preference groups share one change, and each has a level of
    its own. So it does not matter which of them a step has sampled. None if there are too few means.
    """
    means, spread = view.metrics.step_means, _spread(view)
    late_M = means.step_M > max(last, means.step_M.max() - _latest_steps(means.step_M))
    used_M = late_M | ((means.step_M >= first) & (means.step_M <= last))
    if used_M.sum() < _LEAST_DEGREES or not spread > 0:
        return None
    late, weight, level = (
        late_M[used_M].astype(float),
        means.count_M[used_M],
        means.preference_group_M[used_M],
    )
    degrees = len(late) - len(np.unique(level)) - 1
    if degrees < _LEAST_DEGREES:
        # Most preference groups were sampled once, so one level for all is used.
        level, degrees = np.zeros_like(level), len(late) - 2
    x, y = _around_mean(late, weight, level), _around_mean(means.mean_M[used_M], weight, level)
    squares = float((weight * x * x).sum())
    if not squares > 0:
        return None
    rise = float((weight * x * y).sum()) / squares
    error = math.sqrt(float((weight * (y - rise * x) ** 2).sum()) / degrees / squares)
    return Change(rise, error, spread, (max(1, int(first)), int(last)))


def _around_mean(values: Floats, weight: Floats, level: Whole) -> Floats:
    """The values minus the weighted mean of all values with the same `level`."""
    totals = np.bincount(level, weights=weight)
    means = np.bincount(level, weights=weight * values) / np.where(totals > 0, totals, 1.0)
    return np.asarray(values - means[level], np.float64)


def _spread(view: RunView) -> float:
    """The standard deviation of the latest rewards around the means of their preference groups."""
    completions = view.completions
    rewards = completions.reward_N[completions.scored_N]
    level = completions.preference_group_N[completions.scored_N]
    if len(rewards) < 2:
        return math.nan
    return float(_around_mean(rewards, np.ones(len(rewards)), level).std())


def find_stuck(view: RunView) -> Iterator[Finding]:
    """The reward has not risen noticeably, or the model has not moved from the base model."""
    change = since_start(view)
    if change is None or _nothing_differs(view) or _earns_most(view) or any(find_falls(view)):
        return
    kl, little = _kl(view), LITTLE * change.spread
    flat = -little < change.lowest() and change.highest() < little
    idle = kl is not None and kl < KL_NOTHING and change.lowest() <= 0 <= change.highest()
    if flat or idle:
        yield _stuck(view, change, kl)


def _stuck(view: RunView, change: Change, kl: float | None) -> Finding:
    why, remedy = _why_stuck(view, kl)
    numbers = {
        "rise": change.rise,
        "error": change.error,
        "spread": change.spread,
        "learning_rate": view.recipe.train.learning_rate,
        **({} if kl is None else {"kl": kl}),
    }
    return Finding(
        "reward-stuck",
        None,
        "warning",
        f"In {view.step} steps the mean reward has changed by {shown(change.rise)} (± "
        f"{shown(_TWO_ERRORS * change.error)}), with a spread of {shown(change.spread)}: there is no "
        f"noticeable progress. {why}",
        remedy,
        numbers,
    )


def _why_stuck(view: RunView, kl: float | None) -> tuple[str, str]:
    """The likely reason and the remedy, which depend on how far the model has moved."""
    recipe = view.recipe
    rate, beta = recipe.train.learning_rate, recipe.loss.beta
    faster = f"train.learning_rate={shown(3 * rate)}"
    if kl is None:
        return (
            f"Most often the learning rate ({rate:g}) is too low. Without a KL this is not certain.",
            f"Set {faster}. With loss.beta=0.001 metrics.jsonl records how far the model has moved.",
        )
    if kl < KL_NOTHING:
        return (
            f"And the model has hardly moved from the base model (KL {shown(kl)} nats per token): the "
            f"learning rate ({rate:g}) is too low.",
            f"Set {faster}" + (f", or loss.beta={beta / 10:g}." if beta >= TIGHT_BETA else "."),
        )
    return (
        f"The model has moved (KL {shown(kl)} nats per token), but the reward has not risen: it may be "
        "too noisy, or too hard to earn.",
        f"Set train.prompts_per_step={2 * recipe.train.prompts_per_step} or "
        f"rollout.num_generations={2 * recipe.rollout.num_generations} for less noise, or let the reward "
        "give more for partly good answers. advantage.estimator=pgrpo_adaptive helps if prompts differ "
        "much in difficulty.",
    )


def find_falls(view: RunView) -> Iterator[Finding]:
    """The reward is lower than it was by more than noise explains."""
    change = since_best(view)
    if change is None or change.rise > -LITTLE * change.spread or change.highest(FALL_ERRORS) >= 0:
        return
    rate = view.recipe.train.learning_rate
    yield Finding(
        "reward-falls",
        None,
        "problem",
        f"Since steps {change.since[0]} to {change.since[1]} the mean reward has fallen by "
        f"{shown(-change.rise)} (± {shown(_TWO_ERRORS * change.error)}), with a spread of "
        f"{shown(change.spread)}: the run gets worse.",
        f"Set train.learning_rate={shown(rate / 3)}, and loss.beta=0.04 to hold the model near the base "
        "model; read some late completions.",
        {"rise": change.rise, "error": change.error, "spread": change.spread, "learning_rate": rate},
    )


def _nothing_differs(view: RunView) -> bool:
    return any(finding.preference_group is None for finding in find_no_spread(view))


def _earns_most(view: RunView) -> bool:
    """Whether there is little left to gain: the mean is near the maximum of the rewards."""
    completions = view.completions
    scored_N = completions.scored_N
    level, names = completions.preference_group_N[scored_N], completions.preference_groups
    counts = np.bincount(level, minlength=len(names))
    totals = np.bincount(level, weights=completions.reward_N[scored_N], minlength=len(names))
    for name, count, total in zip(names, counts, totals, strict=True):
        bounds = reward_bounds(view.recipe.rewards, name)
        if bounds is None:
            return False
        low, high = bounds
        if total < count * (low + _ENOUGH_OF_RANGE * (high - low)):
            return False
    return True


def _kl(view: RunView) -> float | None:
    values = view.metrics.latest("kl")
    return float(np.median(values)) if len(values) >= RECENT_STEPS // 2 else None


def find_kl_explodes(view: RunView) -> Iterator[Finding]:
    """The model is far from the base model."""
    kl = _kl(view)
    if kl is None or kl < KL_LARGE:
        return
    train, beta = view.recipe.train, view.recipe.loss.beta
    yield Finding(
        "kl-explodes",
        None,
        "warning",
        f"The KL divergence to the base model is {shown(kl)} nats per token (median of the last "
        f"{RECENT_STEPS} steps): the model is very far from it. Texts often become incoherent then, even "
        "while the reward rises.",
        f"Read some completions. To keep the model closer: loss.beta={max(0.04, 4 * beta):g}, or "
        f"train.learning_rate={shown(train.learning_rate / 3)}.",
        {"kl": kl, "beta": beta},
    )


def find_clipped(view: RunView) -> Iterator[Finding]:
    """The gradient was clipped at every step."""
    norms = view.metrics.latest("grad_norm", CLIPPED_STEPS)
    limit = view.recipe.train.max_grad_norm
    if norms.min() <= limit:
        return
    median = float(np.median(norms))
    yield Finding(
        "gradients-clipped",
        None,
        "note",
        f"The gradient was scaled down to train.max_grad_norm ({limit:g}) in each of the last {len(norms)} "
        f"steps (median norm {shown(median)}): every step has the same size, however strong its signal. Adam "
        "normalises a constant factor, so the run is slowed down less than it seems.",
        f"Set train.max_grad_norm={shown(1.5 * median)}, so that only unusual steps are clipped"
        + (
            f", or train.learning_rate={shown(view.recipe.train.learning_rate / 3)}."
            if median > 10 * limit
            else "."
        ),
        {"median": median, "limit": limit, "steps": len(norms)},
    )


def reassurances(view: RunView) -> Iterator[str]:
    """Sentences about numbers of this run that look wrong but are normal."""
    loss, norm = view.metrics.latest("loss", WINDOW_STEPS), view.metrics.latest("grad_norm", WINDOW_STEPS)
    if len(loss) and len(norm) and np.median(norm) > 0:
        middle = float(np.median(loss))
        if abs(middle) <= LOSS_NEAR_ZERO:
            yield (
                f"A loss near 0 (median {shown(middle)}) is normal, from the first step on: it is about the "
                "negative mean advantage, which the normalisation keeps near 0 whether the model learns or "
                f"not. The gradient is not 0 (median norm {shown(float(np.median(norm)))}). Watch the reward "
                "instead."
            )
        elif middle < 0:
            yield (
                f"A loss below 0 (median {shown(middle)}) is normal: it is about the negative mean "
                "advantage, which does not measure progress. Watch the reward instead."
            )
    kl = view.metrics.earliest("kl", 1)
    if len(kl) and kl[0] < 1e-6 and view.step > 1:
        yield "A KL of 0 at the first step is normal: a new adapter does not change the model."


def _lacks_steps(view: RunView) -> str | None:
    least = LEAST_STEPS + view.recipe.train.warmup_steps
    if view.step < least:
        return f"{least} steps are needed"
    return None if since_start(view) else "the rewards of too few steps are known, or all are equal"


def _lacks_kl(view: RunView) -> str | None:
    if _kl(view) is not None:
        return None
    return "the KL is recorded only with loss.beta above 0 (loss.beta=0.001 hardly changes a run)"


def _lacks_norms(view: RunView) -> str | None:
    few = len(view.metrics.latest("grad_norm", CLIPPED_STEPS)) < CLIPPED_STEPS
    return f"{CLIPPED_STEPS} steps are needed" if few else None


RULES = (
    Rule("reward-falls", "Is the reward free of a downward trend?", _lacks_steps, find_falls),
    Rule("reward-stuck", "Does the reward rise, and the model move?", _lacks_steps, find_stuck),
    Rule("kl-explodes", "Does the model stay near the base model?", _lacks_kl, find_kl_explodes),
    Rule("gradients-clipped", "Do most gradients stay below the clipping norm?", _lacks_norms, find_clipped),
)
