"""Whether the reward rises or falls, for courses of it that are no straight lines."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pgrpo_cli.diagnosis.progress import find_falls, find_stuck, since_start
from pgrpo_cli.diagnosis.view import Completions, Metrics, RunView, TrainingPrompts
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.state.run_view import MOST_LINES
from tests.support.recipes import changed

P, G, SPREAD = 8, 4, 0.2


def course(level: Callable[[int], float], steps: int, seed: int = 0) -> RunView:
    """A run whose rewards have this level at each step, and a standard deviation of 0.2."""
    random = np.random.default_rng(seed)
    lines, rows = [], []
    for step in range(1, steps + 1):
        rewards = random.normal(level(step), SPREAD, P * G)
        lines.append({"step": step, "groups": {"a": {"n": P * G, "mean": float(rewards.mean())}}})
        rows += [(step, n // G, float(reward)) for n, reward in enumerate(rewards)]
    rows = rows[-40 * P * G :]
    completions = Completions.of(
        steps=[row[0] for row in rows],
        prompts=[row[1] for row in rows],
        preference_groups=["a"] * len(rows),
        rewards=[row[2] for row in rows],
        parts=[{}] * len(rows),
        lengths=[1] * len(rows),
        texts=[""] * len(rows),
    )
    # As a run's own view keeps them.
    kept = [*lines[:10], *lines[10:][-(MOST_LINES - 10) :]]
    return RunView(
        Recipe.model_validate(changed()), Metrics(tuple(kept)), completions, {}, TrainingPrompts({})
    )


@pytest.mark.parametrize(("steps", "learnt_by"), [(200, 10), (1000, 50), (1500, 100)])
def test_a_run_that_learnt_early_is_not_stuck(steps: int, learnt_by: int) -> None:
    view = course(lambda step: 0.3 + 0.2 * min(1.0, step / learnt_by), steps)
    assert list(find_stuck(view)) == [] and list(find_falls(view)) == []
    change = since_start(view)
    # The first ten steps are at 0.3 + 0.2 · 5.5 / learnt_by in the mean.
    assert change is not None
    assert change.rise == pytest.approx(0.2 - 1.1 / learnt_by, abs=3 * change.error)


def test_a_run_at_one_level_is_stuck() -> None:
    (finding,) = find_stuck(course(lambda step: 0.3, 200))
    assert abs(finding.numbers["rise"]) < 3 * finding.numbers["error"]


@pytest.mark.parametrize("after", [0.3, 0.2])
def test_a_collapse_after_a_rise_is_a_fall(after: float) -> None:
    """Over the whole run the reward has risen, or it is where it was."""
    view = course(lambda step: 0.3 + 0.4 * min(1.0, step / 100) if step <= 160 else after, 200)
    (finding,) = find_falls(view)
    assert finding.numbers["rise"] == pytest.approx(after - 0.7, abs=0.05)
    assert "Since steps 81 to 120" in finding.says or "Since steps 121 to 160" in finding.says
    # It is said once.
    assert list(find_stuck(view)) == []


def test_a_flat_run_does_not_fall_by_chance() -> None:
    """20 runs whose prompts differ much more than their completions, each looked at three times."""

    def falls(seed: int) -> int:
        levels = np.random.default_rng(seed).normal(0.3, SPREAD, 200)
        return sum(
            len(list(find_falls(course(lambda step: float(levels[step - 1]), steps, seed))))
            for steps in (60, 120, 200)
        )

    assert sum(map(falls, range(20))) == 0
