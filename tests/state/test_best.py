"""The best step of a run by its held-out curve: measures by hand, ties, and when to stop."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.errors import CheckpointError
from pgrpo_cli.recipe.training import TrainSection
from pgrpo_cli.state.adapter import Adapter, finished_step
from pgrpo_cli.state.best import Best, Measure
from pgrpo_cli.state.curve import curve_path
from pgrpo_cli.state.run import RunDirectory
from tests.support.runs import recipe_of


def run_with(folder: Path, *lines: dict[str, Any]) -> RunDirectory:
    run = RunDirectory(folder)
    curve_path(run).parent.mkdir()
    curve_path(run).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def line(step: int, macro: float | None, **prompts: list[float]) -> dict[str, Any]:
    groups = {
        name: {"n": len(values), "mean": sum(values) / len(values), "prompts": dict(enumerate(values))}
        for name, values in prompts.items()
    }
    return {"step": step, "macro": macro, "groups": groups}


def best_of(tmp_path: Path, macros: list[float | None], stop_after: int | None = None) -> Best:
    lines = [
        line(5 * i, macro, **({} if macro is None else {"a": [macro]})) for i, macro in enumerate(macros)
    ]
    return Best(run_with(tmp_path, *lines), "macro", stop_after)


def test_what_a_recipe_asks_for(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert Best.of(run, TrainSection()) is None
    assert Best.of(run, TrainSection(keep_best="macro", stop_after=2)) == Best(run, "macro", 2)
    assert Best(run, "macro", 2).step() is None and not Best(run, "macro", 2).exhausted()


def test_the_highest_macro_and_the_first_of_equal_ones(tmp_path: Path) -> None:
    # Steps 0, 5, 10, 15, 20: the one before training does not count.
    best = best_of(tmp_path, [0.9, 0.2, 0.5, 0.5, None])
    assert best.step() == 10
    assert best.values() == {0: 0.9, 5: 0.2, 10: 0.5, 15: 0.5}


def test_rounding_is_no_spread_to_count_a_gain_in(tmp_path: Path) -> None:
    # 0.1 + 0.2 is not 0.3: in units of that error, a gains 10^16 and b is always the worst.
    first = line(0, 0.0, a=[0.1 + 0.2, 0.3], b=[0.0, 2.0])
    run = run_with(tmp_path, first, line(4, 0.0, a=[0.4, 0.4], b=[1.0, 4.0]))
    # a gains 0.1, in units of 1.
    assert Best(run, "worst_group", None).values()[4] == pytest.approx(0.1)


def test_the_smallest_gain_in_units_of_the_first_evaluation(tmp_path: Path) -> None:
    # a: prompts 0 and 2, mean 1, spread sqrt 2. b: 10 and 30, mean 20, spread sqrt 200. c: one prompt, so 1.
    run = run_with(
        tmp_path,
        line(0, 0.0, a=[0, 2], b=[10, 30], c=[1]),
        line(4, 0.0, a=[3, 3], b=[10, 40], c=[2]),
        line(8, 0.0, a=[2, 2], b=[20, 40], c=[2]),
    )
    # Step 4: 2 / sqrt 2, 5 / sqrt 200, 1. Step 8: 1 / sqrt 2, 10 / sqrt 200 = 1 / sqrt 2, 1.
    best = Best(run, "worst_group")
    assert best.values() == pytest.approx({0: 0, 4: 5 / math.sqrt(200), 8: 1 / math.sqrt(2)})
    assert best.step() == 8


@pytest.mark.parametrize(
    ("macros", "over"),
    [
        ([0.5], False),
        ([0.5, 0.6, 0.6], False),  # one evaluation without a better one
        ([0.5, 0.6, 0.6, 0.4], True),
        ([0.5, 0.6, 0.4, 0.7], False),
        ([0.5, 0.4, 0.3], True),  # never better than before training
        ([0.5, None, None], False),  # nothing is known of them
        ([None, 0.5, 0.4, None, 0.3], True),
    ],
)
def test_it_is_over_after_two_evaluations_without_a_better_one(
    tmp_path: Path, macros: list[float | None], over: bool
) -> None:
    best = best_of(tmp_path, macros, stop_after=2)
    assert best.exhausted() is over
    assert not Best(best.run, "macro").exhausted()


@pytest.mark.parametrize("measure", ["macro", "worst_group"])
def test_a_group_without_rewards_at_first(tmp_path: Path, measure: Measure) -> None:
    run = run_with(tmp_path, line(0, None), line(4, 0.5, a=[0.5]))
    assert Best(run, measure).step() == 4


def test_gains_are_those_since_the_first_evaluation_with_rewards(tmp_path: Path) -> None:
    # Step 2 is 0 by definition; then 0.5 - 0.1 and 0.9 - 0.1, in units of 1 since there is one prompt.
    later = [line(2, 0.1, a=[0.1]), line(4, 0.5, a=[0.5]), line(6, 0.9, a=[0.9])]
    best = Best(run_with(tmp_path, line(0, None), *later), "worst_group", 2)
    assert best.values() == pytest.approx({2: 0, 4: 0.4, 6: 0.8})
    assert best.step() == 6 and not best.exhausted()


@pytest.mark.parametrize("measure", ["macro", "worst_group"])
def test_without_any_rewards_the_last_step_is_kept(tmp_path: Path, measure: Measure) -> None:
    run = run_with(tmp_path, line(0, None), line(1, None), line(2, None))
    best = Best(run, measure, 1)
    assert best.values() == {} and not best.exhausted()
    _, step, says = best.adapter(Adapter({}, {}), 2)
    assert step == 2 and "no step was evaluated with rewards" in says


def test_an_evaluation_without_rewards_of_a_group_does_not_count(tmp_path: Path) -> None:
    # Without the hard group, step 10 has the highest mean.
    first, last = line(0, 0.35, easy=[0.5, 0.6], hard=[0.1, 0.2]), line(20, 0.55, easy=[0.75], hard=[0.35])
    run = run_with(tmp_path, first, line(10, 0.6, easy=[0.6]), last)
    best = Best(run, "macro", 1)
    assert best.values() == {0: 0.35, 20: 0.55}
    assert best.step() == 20 and not best.exhausted()
    _, step, says = best.adapter(Adapter({}, {}), 20)
    assert step == 20 and "the best of 1 evaluations" in says
    assert says.endswith("; 1 of 3 do not count, since a preference group has no rewards")


def test_the_worst_group_is_the_worst_of_those_of_the_first_evaluation(tmp_path: Path) -> None:
    # In step 20 the worst group, hard, is missing; late has no first value, so it is not needed.
    run = run_with(
        tmp_path,
        line(0, 0.35, easy=[0.5], hard=[0.1]),
        line(10, 0.0, easy=[0.5], hard=[-0.5], late=[1.0]),
        line(20, 0.6, easy=[0.6]),
        line(30, 0.4, easy=[0.6], hard=[0.15]),
    )
    best = Best(run, "worst_group")
    assert best.values() == pytest.approx({0: 0.0, 10: -0.6, 30: 0.05})
    assert best.step() == 30


def test_without_a_whole_evaluation_the_last_step_is_kept(tmp_path: Path) -> None:
    run = run_with(tmp_path, line(0, 0.3, a=[0.3], b=[0.3]), line(5, 0.5, a=[0.5]))
    _, step, says = Best(run, "macro").adapter(Adapter({}, {}), 9)
    assert step == 9 and "no step was evaluated with rewards of every preference group" in says


def test_the_finished_adapter_says_its_step(tmp_path: Path) -> None:
    run, recipe = RunDirectory(tmp_path), recipe_of(train__steps=9)
    (tmp_path / "adapter").mkdir()
    assert finished_step(run, recipe.train) == 9
    said = tmp_path / "adapter" / "trainer.json"
    said.write_text('{"version": 1, "step": 4}')
    assert finished_step(run, recipe.train) == 4
    for text in ('{"step": 10}', '{"step": "4"}', "{}", "["):
        said.write_text(text)
        with pytest.raises(CheckpointError, match="is damaged"):
            finished_step(run, recipe.train)
