"""Does it learn, and does it stay near the model that it began from? And what looks broken and is not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .finding import Finding, Rule, shown
from .spread import find_no_spread, reward_bounds
from .view import RECENT_STEPS, WINDOW_STEPS, Floats, RunView, Whole

LEAST_STEPS = 40
"""Steps after the warm-up before a reward that does not move is called stuck."""
LITTLE = 0.3
"""In standard deviations of the reward: a smaller change over a whole run is next to nothing. Of 50 steps
with 36 completions it is about three standard errors: enough to tell many runs that stand still from those
that rise; of the others nothing is said."""
KL_LARGE = 1.0
"""Nats a token: the tuned model then gives its own tokens e times the base model's probability on average. A
healthy run stays far below."""
KL_NOTHING = 1e-3
"""Nats a token: a model that has learnt a style stands at hundredths or tenths."""
TIGHT_BETA = 0.1
"""loss.beta from which the penalty itself may be what holds the model."""
CLIPPED_STEPS = 20
"""Steps in a row whose gradients are clipped."""
LOSS_NEAR_ZERO = 0.02
"""A loss that a reader takes for 0, as printed."""
_ENOUGH_OF_RANGE = 0.9
_TWO_ERRORS = 2.0
_LEAST_DEGREES = 10


@dataclass(frozen=True)
class Trend:
    """Change of the mean reward over the run so far, its standard error, and the rewards' spread."""

    rise: float
    error: float
    spread: float

    @property
    def highest(self) -> float:
        """The rise is most likely no larger."""
        return self.rise + _TWO_ERRORS * self.error

    @property
    def lowest(self) -> float:
        """The rise is most likely no smaller."""
        return self.rise - _TWO_ERRORS * self.error


def trend(view: RunView) -> Trend | None:
    """The straight line through the step means of each preference group, one slope for all, each with a level
    of its own, so that it does not matter which of them a step draws; weighted by rewards. None where too
    little is known.
    """
    means, spread = view.metrics.step_means, _spread(view)
    step, weight, level = means.step_M, means.count_M, means.preference_group_M
    if len(step) < _LEAST_DEGREES or not spread > 0:
        return None
    degrees = len(step) - len(np.unique(level)) - 1
    if degrees < _LEAST_DEGREES:
        # Most preference groups were seen once: they share a level.
        level, degrees = np.zeros_like(level), len(step) - 2
    x, y = _around_mean(step, weight, level), _around_mean(means.mean_M, weight, level)
    squares = float((weight * x * x).sum())
    if not squares > 0:
        return None
    slope = float((weight * x * y).sum()) / squares
    error = math.sqrt(float((weight * (y - slope * x) ** 2).sum()) / degrees / squares)
    length = float(step.max() - step.min())
    return Trend(slope * length, error * length, spread)


def _around_mean(values: Floats, weight: Floats, level: Whole) -> Floats:
    """The values without the weighted means of those with the same number in `level`."""
    totals = np.bincount(level, weights=weight)
    means = np.bincount(level, weights=weight * values) / np.where(totals > 0, totals, 1.0)
    return np.asarray(values - means[level], np.float64)


def _spread(view: RunView) -> float:
    """Standard deviation of the latest rewards around the means of their preference groups."""
    completions = view.completions
    rewards = completions.reward_N[completions.scored_N]
    level = completions.preference_group_N[completions.scored_N]
    if len(rewards) < 2:
        return math.nan
    return float(_around_mean(rewards, np.ones(len(rewards)), level).std())


def find_stuck(view: RunView) -> Iterator[Finding]:
    """The reward has not risen by anything that matters, or the model stands where it began."""
    found = trend(view)
    if found is None or _nothing_differs(view) or _earns_most(view):
        return
    kl, little = _kl(view), LITTLE * found.spread
    flat = -little < found.lowest and found.highest < little
    idle = kl is not None and kl < KL_NOTHING and found.lowest <= 0 <= found.highest
    if flat or idle:
        yield _stuck(view, found, kl)


def _stuck(view: RunView, found: Trend, kl: float | None) -> Finding:
    why, remedy = _why_stuck(view, kl)
    numbers = {
        "rise": found.rise,
        "error": found.error,
        "spread": found.spread,
        "learning_rate": view.recipe.train.learning_rate,
        **({} if kl is None else {"kl": kl}),
    }
    return Finding(
        "reward-stuck",
        None,
        "warning",
        f"After {view.step} steps the mean reward has changed by {shown(found.rise)} (± "
        f"{shown(_TWO_ERRORS * found.error)}), beside a spread of {shown(found.spread)}: no progress to "
        f"speak of. {why}",
        remedy,
        numbers,
    )


def _why_stuck(view: RunView, kl: float | None) -> tuple[str, str]:
    """The likely reason and the remedy, by how far the model has moved."""
    recipe = view.recipe
    rate, beta = recipe.train.learning_rate, recipe.loss.beta
    faster = f"train.learning_rate={shown(3 * rate)}"
    if kl is None:
        return (
            f"Most often the learning rate ({rate:g}) is too low; without a KL that cannot be told for sure.",
            f"Set {faster}; with loss.beta=0.001 metrics.jsonl tells how far the model has moved.",
        )
    if kl < KL_NOTHING:
        return (
            f"And the model has hardly moved from the base model (KL {shown(kl)} nats a token): the learning "
            f"rate ({rate:g}) is too low.",
            f"Set {faster}" + (f", or loss.beta={beta / 10:g}." if beta >= TIGHT_BETA else "."),
        )
    return (
        f"The model has moved (KL {shown(kl)} nats a token), but not to where the reward is: it may be too "
        "noisy, or too hard, for what is sampled.",
        f"Set train.prompts_per_step={2 * recipe.train.prompts_per_step} or "
        f"rollout.num_generations={2 * recipe.rollout.num_generations} for less noise, or give the reward a "
        "slope. advantage.estimator=pgrpo_adaptive helps where prompts differ much in difficulty.",
    )


def find_falls(view: RunView) -> Iterator[Finding]:
    """The reward goes down, and that is no accident."""
    found = trend(view)
    if found is None or found.rise > -LITTLE * found.spread or found.highest >= 0:
        return
    rate = view.recipe.train.learning_rate
    yield Finding(
        "reward-falls",
        None,
        "problem",
        f"Over {view.step} steps the mean reward has fallen by {shown(-found.rise)} (± "
        f"{shown(_TWO_ERRORS * found.error)}), beside a spread of {shown(found.spread)}: the run gets worse.",
        f"Set train.learning_rate={shown(rate / 3)}, and loss.beta=0.04 to hold the model near the base "
        "model; read some late completions.",
        {"rise": found.rise, "error": found.error, "spread": found.spread, "learning_rate": rate},
    )


def _nothing_differs(view: RunView) -> bool:
    return any(finding.preference_group is None for finding in find_no_spread(view))


def _earns_most(view: RunView) -> bool:
    """Whether there is little left to gain: the mean is near the most that the rewards can give."""
    completions = view.completions
    scored_N = completions.scored_N
    level, names = completions.preference_group_N[scored_N], completions.preference_groups
    counts = np.bincount(level, minlength=len(names))
    totals = np.bincount(level, weights=completions.reward_N[scored_N], minlength=len(names))
    for name, count, total in zip(names, counts, totals, strict=True):
        bounds = reward_bounds(view.recipe, name)
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
    """The model has gone far from where it began."""
    kl = _kl(view)
    if kl is None or kl < KL_LARGE:
        return
    train, beta = view.recipe.train, view.recipe.loss.beta
    yield Finding(
        "kl-explodes",
        None,
        "warning",
        f"The KL divergence to the base model is {shown(kl)} nats a token (median of the last {RECENT_STEPS} "
        "steps): the model has left it far behind. Text often falls apart then, even while the reward rises.",
        f"Read some completions. To hold it: loss.beta={max(0.04, 4 * beta):g}, or "
        f"train.learning_rate={shown(train.learning_rate / 3)}.",
        {"kl": kl, "beta": beta},
    )


def find_clipped(view: RunView) -> Iterator[Finding]:
    """The gradient was scaled down at every step."""
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
        f"steps (median norm {shown(median)}): every step counts alike, however strong its signal. Adam "
        "evens out a constant factor, so this slows down less than it seems.",
        f"Set train.max_grad_norm={shown(1.5 * median)}, so that only odd steps are cut"
        + (
            f", or train.learning_rate={shown(view.recipe.train.learning_rate / 3)}."
            if median > 10 * limit
            else "."
        ),
        {"median": median, "limit": limit, "steps": len(norms)},
    )


def reassurances(view: RunView) -> Iterator[str]:
    """Sentences about numbers of this run that are as they should be."""
    loss, norm = view.metrics.latest("loss", WINDOW_STEPS), view.metrics.latest("grad_norm", WINDOW_STEPS)
    if len(loss) and len(norm) and np.median(norm) > 0:
        middle = float(np.median(loss))
        if abs(middle) <= LOSS_NEAR_ZERO:
            yield (
                f"A loss near 0 (median {shown(middle)}) is normal, from the first step on: it is about "
                "minus the mean advantage, which the normalisation keeps near 0, whatever is learnt. The "
                f"gradient is not 0 (median norm {shown(float(np.median(norm)))}). Watch the reward instead."
            )
        elif middle < 0:
            yield (
                f"A loss below 0 (median {shown(middle)}) is normal: it is about minus the mean advantage, "
                "and no measure of progress. Watch the reward instead."
            )
    kl = view.metrics.earliest("kl", 1)
    if len(kl) and kl[0] < 1e-6 and view.step > 1:
        yield "A KL of 0 at the first step is normal: the adapter begins as nothing."


def _lacks_steps(view: RunView) -> str | None:
    least = LEAST_STEPS + view.recipe.train.warmup_steps
    if view.step < least:
        return f"it takes {least} steps"
    return None if trend(view) else "the rewards of too few steps are known, or all are alike"


def _lacks_kl(view: RunView) -> str | None:
    if _kl(view) is not None:
        return None
    return "the KL is recorded only with loss.beta above 0 (loss.beta=0.001 hardly changes a run)"


def _lacks_norms(view: RunView) -> str | None:
    few = len(view.metrics.latest("grad_norm", CLIPPED_STEPS)) < CLIPPED_STEPS
    return f"it takes {CLIPPED_STEPS} steps" if few else None


RULES = (
    Rule("reward-falls", "Is the reward free of a downward trend?", _lacks_steps, find_falls),
    Rule("reward-stuck", "Does the reward rise, and the model move?", _lacks_steps, find_stuck),
    Rule("kl-explodes", "Does the model stay near the base model?", _lacks_kl, find_kl_explodes),
    Rule("gradients-clipped", "Do most gradients stay below the clipping norm?", _lacks_norms, find_clipped),
)
