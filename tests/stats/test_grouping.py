"""Which runs are seeds of one method."""

from __future__ import annotations

from typing import Any

import pytest

from pgrpo_cli.errors import RunError
from pgrpo_cli.stats.comparison import Method
from pgrpo_cli.stats.grouping import grouping_notes, methods_of


def recipe(estimator: str, seed: int, **more: Any) -> dict[str, Any]:
    return {"name": f"{estimator}-{seed}", "seed": seed, "advantage": {"estimator": estimator}, **more}


GRID = {f"{e}-{s}": recipe(e, s) for e in ("grpo", "pgrpo") for s in (0, 1, 2)}


def grouped(recipes: dict[str, dict[str, Any]], *by: str) -> tuple[list[Method], list[str]]:
    return methods_of(list(recipes), list(recipes.values()), by)


def test_runs_that_differ_in_their_seed_alone_are_one_method() -> None:
    methods, keys = grouped(GRID)
    assert keys == ["advantage.estimator"]
    assert [(m.label, m.runs, m.seeds) for m in methods] == [
        ("grpo", ["grpo-0", "grpo-1", "grpo-2"], [0, 1, 2]),
        ("pgrpo", ["pgrpo-0", "pgrpo-1", "pgrpo-2"], [0, 1, 2]),
    ]


def test_an_aggregation_that_follows_from_the_estimator_is_not_part_of_the_name() -> None:
    def with_loss(**more: Any) -> dict[str, dict[str, Any]]:
        taken = {"grpo": "sequence_mean", "pgrpo": "constant", **more}
        return {
            label: {**one, "loss": {"aggregation": taken[one["advantage"]["estimator"]]}}
            for label, one in GRID.items()
        }

    methods, keys = grouped(with_loss())
    assert keys == ["advantage.estimator", "loss.aggregation"]
    assert [m.label for m in methods] == ["grpo", "pgrpo"]
    # It is where it tells methods apart.
    both = {**with_loss(), **{f"{k}-mean": v for k, v in with_loss(pgrpo="sequence_mean").items()}}
    both = {label: one for label, one in both.items() if not label.startswith("grpo")}
    assert [m.label for m in grouped(both)[0]] == ["constant", "sequence_mean"]


def test_without_several_seeds_every_run_stands_for_itself() -> None:
    for recipes in (
        {"a": recipe("grpo", 0), "b": recipe("pgrpo", 0)},
        {"a": recipe("grpo", 0), "b": recipe("grpo", 1)},
        {"a": recipe("grpo", 0), "b": recipe("grpo", 0), "c": recipe("pgrpo", 0)},
    ):
        methods, keys = grouped(recipes)
        assert (keys, [m.label for m in methods]) == ([], list(recipes))


def test_keys_may_be_named() -> None:
    longer = {**GRID, "long": recipe("pgrpo", 3, train={"steps": 9})}
    methods, keys = grouped(longer, "advantage.estimator")
    assert [m.runs for m in methods][1] == ["pgrpo-0", "pgrpo-1", "pgrpo-2", "long"]
    assert grouping_notes(methods, longer, keys) == ["pgrpo: its runs also differ in train.steps."]
    methods, _ = grouped(longer, "advantage.estimator", "train.steps")
    assert [m.label for m in methods] == [
        "advantage.estimator=grpo, train.steps=None",
        "advantage.estimator=pgrpo, train.steps=None",
        "advantage.estimator=pgrpo, train.steps=9",
    ]


@pytest.mark.parametrize(
    ("key", "message"),
    [("advantage.estimater", "no recipe has this key"), ("kind", "its value is 'x' in every run")],
)
def test_keys_that_tell_nothing_apart_are_refused(key: str, message: str) -> None:
    with pytest.raises(RunError, match=message):
        grouped({label: {**found, "kind": "x"} for label, found in GRID.items()}, key)


def test_what_few_seeds_leave_open_is_said() -> None:
    runs = {"a": recipe("grpo", 0), "b": recipe("pgrpo", 0)}
    assert "One seed each" in grouping_notes(*_with(runs))[0]
    lone = {**{k: v for k, v in GRID.items() if v["seed"] or k == "grpo-0"}, "rloo": recipe("rloo", 0)}
    assert grouping_notes(*_with(lone)) == [
        "rloo: only one seed; its variance between seeds is assumed to equal that of the method "
        "it is compared with."
    ]
    twice = {**GRID, "again": recipe("pgrpo", 2)}
    methods, keys = grouped(twice, "advantage.estimator")
    assert "some of its runs have the same seed" in grouping_notes(methods, twice, keys)[0]


def _with(runs: dict[str, dict[str, Any]]) -> tuple[list[Method], dict[str, dict[str, Any]], list[str]]:
    methods, keys = grouped(runs)
    return methods, runs, keys
