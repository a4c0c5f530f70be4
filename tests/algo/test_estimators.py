"""What estimators are said to do is what their advantages do."""

from __future__ import annotations

from typing import get_args

import pytest

from pgrpo_cli.algo.advantages import compute_advantages
from pgrpo_cli.algo.estimators import PRESETS, Baseline, Estimator, Scale, resolve_estimator
from pgrpo_cli.algo.history import RewardHistory


@pytest.mark.parametrize(
    ("baseline", "aggregation"),
    [
        ("history", "constant"),
        ("shrinkage", "constant"),
        ("prompt", "sequence_mean"),
        ("leave_one_out", "sequence_mean"),
    ],
)
def test_the_aggregation_follows_from_the_baseline(baseline: Baseline, aggregation: str) -> None:
    for scale in get_args(Scale):
        assert Estimator(baseline, scale).aggregation == aggregation


@pytest.mark.parametrize("name", PRESETS)
def test_what_it_is_said_to_do_it_does(name: str) -> None:
    history = RewardHistory()
    history.update([0.0, 1.0, 2.0, 5.0], ["a"] * 4, num_generations=2, step=1)

    def advantages(*rewards: float) -> list[float]:
        found = compute_advantages(rewards, ["a", "a"], num_generations=2, history=history, estimator=name)
        return found.advantages_N.tolist()

    estimator = resolve_estimator(name)
    assert (sum(advantages(1.0, 4.0)) == pytest.approx(0, abs=1e-6)) == estimator.centered
    assert (advantages(4.0, 4.0) == [0, 0]) == estimator.centered
    # Of 0 and 30 the mean is 15, and the other one is 30 away.
    assert (max(advantages(0.0, 30.0)) not in (15, 30)) == estimator.scaled
    if not estimator.uses_history:
        compute_advantages([1.0, 4.0], ["a", "a"], num_generations=2, estimator=name)
