"""Planning a sweep: combinations, names, shared data, what is refused, how far each run is."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml

from pgrpo_cli.errors import RecipeError
from pgrpo_cli.state.run import RunDirectory, claim
from pgrpo_cli.verbs.prepare import data_seed
from pgrpo_cli.verbs.sweep import Sweep, plan_sweep, seeds_of, split_values
from tests.support.recipes import changed


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(changed(name="tiny", seed=4)))
    return path


def names(plan: Sweep) -> list[str]:
    return [run.path.name for run in plan.runs]


def test_every_combination_with_every_seed(recipe: Path) -> None:
    plan = plan_sweep(recipe, ["advantage.estimator=grpo,pgrpo", "train.learning_rate=1e-4,1e-3"], "2")
    assert names(plan) == [
        f"tiny-{estimator}-learning_rate_1e-{power}-seed{seed}"
        for estimator in ("grpo", "pgrpo")
        for power in (4, 3)
        for seed in (4, 5)
    ]
    last = plan.runs[-1]
    assert (last.recipe.advantage.estimator, last.recipe.train.learning_rate, last.recipe.seed) == (
        "pgrpo", 1e-3, 5,
    )  # fmt: skip
    assert last.path.parent == Path("runs")


def test_seeds_share_their_data(recipe: Path) -> None:
    plan = plan_sweep(recipe, [], "3")
    assert {data_seed(run.recipe) for run in plan.runs} == {4}
    assert plan.notes == (
        "data.seed=4: runs that differ in their seeds alone get the same prompts and the same split.",
    )
    chosen = plan_sweep(recipe, ["seed=1,2"], None, ["data.seed=9"])
    assert {data_seed(run.recipe) for run in chosen.runs} == {9}
    assert [run.recipe.seed for run in chosen.runs] == [1, 2] and chosen.notes == ()
    short = plan_sweep(recipe, ["rewards.0.weight=1,2"], None, ["train.steps=2", "train.warmup_steps=3"])
    assert [note.partition(" from")[0] for note in short.notes] == ["train.warmup_steps is cut"]
    alone = plan_sweep(recipe, ["train.steps=1,2"])
    assert [run.recipe.data.seed for run in alone.runs] == [None, None]


def test_seeds_of_the_data_that_the_grid_names_are_kept(recipe: Path) -> None:
    plan = plan_sweep(recipe, ["data.seed=1,2"], "2")
    assert [data_seed(run.recipe) for run in plan.runs] == [1, 1, 2, 2] and plan.notes == ()
    source = "source: {type: personas}"
    plan = plan_sweep(recipe, [f"data={{{source}, seed: 1}},{{{source}, max_prompt_tokens: 99}}"], "2")
    assert [data_seed(run.recipe) for run in plan.runs] == [1, 1, 4, 4]
    assert len(plan.notes) == 1


def test_the_grid_goes_over_what_is_set(recipe: Path) -> None:
    plan = plan_sweep(recipe, ["train.steps=3,5"], None, ["train.steps=7", "name=other"], Path("elsewhere"))
    assert [run.recipe.train.steps for run in plan.runs] == [3, 5]
    assert [str(run.path) for run in plan.runs] == ["elsewhere/other-steps_3", "elsewhere/other-steps_5"]


@pytest.mark.parametrize(
    ("text", "expected"), [(None, []), ("3", [4, 5, 6]), ("0,7", [0, 7]), (" 1 , 2,", [1, 2]), ("5,", [5])]
)
def test_seeds_by_number_or_by_name(text: str | None, expected: list[int]) -> None:
    assert seeds_of(text, 4) == expected


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "x", "1,x", "1.5", ",", "1e9", "2000", "9" * 5000, "1," + "9" * 5000]
)
def test_other_seeds_are_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="--seeds"):
        seeds_of(text, 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,b", ["a", "b"]),
        ("[1,2],[3]", ["[1,2]", "[3]"]),
        ('{type: ema, decay: 0.9},"x,y"', ["{type: ema, decay: 0.9}", '"x,y"']),
        ("a,", ["a", ""]),
        ("Don't hurry,Be quick", ["Don't hurry", "Be quick"]),
        ("['a,b', c],\"it's, so\"", ["['a,b', c]", '"it\'s, so"']),
        ("'it''s, so',b", ["'it''s, so'", "b"]),
        ("'',['it''s', ']',a]", ["''", "['it''s', ']',a]"]),
        (r'"a \"b, c\"","\\",d', [r'"a \"b, c\""', r'"\\"', "d"]),
    ],
)
def test_values_are_split_at_commas_outside_brackets_and_quotes(text: str, expected: list[str]) -> None:
    assert split_values(text) == expected


def test_a_quote_without_an_end_is_refused() -> None:
    with pytest.raises(RecipeError, match="begins with ' and has no end: 'twas,so"):
        split_values("'twas,so")


@pytest.mark.parametrize(
    ("grid", "seeds", "message"),
    [
        ([], None, "varies something"),
        (["train.steps"], None, "must be KEY=VALUE"),
        (["train.steps=1,,2"], None, "must be KEY=VALUE"),
        (["train.steps=1,1"], None, "a value is named twice"),
        (["train.steps=1", "train.steps=2"], None, "train.steps is given twice"),
        (["seed=1,2"], "2", "seed is given twice, by --grid seed=... and --seeds"),
        (["name=a,b"], None, "changes nothing"),
        (["train.steps=1,x"], None, "train.steps"),
        (["train.stepz=1,2"], None, "there is no such key"),
        (["train.steps=" + ",".join(map(str, range(1, 500)))], "3", "the grid has 1497 runs"),
        (["data.source.path=a/b,a_b"], None, "path"),
    ],
)
def test_what_cannot_be_planned_is_refused_before_anything_runs(
    recipe: Path, grid: list[str], seeds: str | None, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        plan_sweep(recipe, grid, seeds)


def test_each_run_is_followed_by_its_control(recipe: Path) -> None:
    grid = ["advantage.estimator=grpo,pgrpo,pgrpo_adaptive"]
    plan = plan_sweep(recipe, grid, "2", control="random_groups")
    assert names(plan) == [
        "tiny-grpo-seed4",
        "tiny-grpo-seed5",
        *(
            f"tiny-{estimator}-seed{seed}{control}"
            for estimator in ("pgrpo", "pgrpo_adaptive")
            for seed in (4, 5)
            for control in ("", "-random_groups")
        ),
    ]
    one, other = plan.runs[2:4]
    assert other.overrides == (*one.overrides, "history.preference_groups=random")
    history = one.recipe.history.model_copy(update={"preference_groups": "random"})
    assert other.recipe == one.recipe.model_copy(update={"history": history})
    # Of grpo there is none, and the plan says why.
    assert plan.notes[-1].startswith("no control: advantage.estimator grpo uses no reward history")
    assert "share their reward histories by chance" in plan.notes[-2]


def test_a_control_alone_is_a_sweep_of_two(recipe: Path) -> None:
    plan = plan_sweep(recipe, [], control="random_groups")
    assert names(plan) == ["tiny", "tiny-random_groups"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["advantage.estimator=grpo"], "no run can have it: advantage.estimator grpo uses no reward history"),
        (["history.preference_groups=random"], "has history.preference_groups=random already"),
    ],
)
def test_a_control_of_nothing_is_refused(recipe: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        plan_sweep(recipe, [], "2", overrides, control="random_groups")


def test_controls_count_as_runs(recipe: Path) -> None:
    """501 runs with as many controls are 1002."""
    assert len(plan_sweep(recipe, [], "2", control="random_groups").runs) == 4
    with pytest.raises(RecipeError, match="the grid has 1002 runs"):
        plan_sweep(recipe, [], "501", control="random_groups")


def test_values_that_look_alike_in_a_name_are_told_apart_by_their_hashes(recipe: Path) -> None:
    # The first six digits of the SHA-256 of `Be kind!` and `Be kind?`.
    first, other = (hashlib.sha256(text.encode()).hexdigest()[:6] for text in ("Be kind!", "Be kind?"))
    assert names(plan_sweep(recipe, ["model.system_prompt=Be kind!,Be kind?,Be brief"])) == [
        f"tiny-system_prompt_Be_kind-{first}",
        f"tiny-system_prompt_Be_kind-{other}",
        "tiny-system_prompt_Be_brief",
    ]  # fmt: skip
    long = "Answer as a person would who has read every book about "
    assert len(set(names(plan_sweep(recipe, [f"model.system_prompt={long}tea,{long}coffee"])))) == 2


def test_a_name_keeps_the_letters_of_every_script(recipe: Path) -> None:
    plan = plan_sweep(recipe, ["model.system_prompt=要简洁,будь краток,短く," + "长" * 300])
    # A name of a folder has 255 bytes at most; each of these characters has 3 bytes, and 40 // 3 is 13.
    assert names(plan) == ["tiny-要简洁", "tiny-будь_краток", "tiny-system_prompt_短く", "tiny-" + "长" * 13]


@pytest.mark.parametrize(
    "grid",
    [
        ["train.learning_rate=1e-3,0.001"],
        ["rewards.0.weight=2,3", "rewards.00.weight=4"],
        ["loss.aggregation=auto,constant"],
    ],
)
def test_equal_recipes_are_refused(recipe: Path, grid: list[str]) -> None:
    with pytest.raises(RecipeError, match=r"would be the same: tiny-\S+ and tiny-"):
        plan_sweep(recipe, grid)


def test_two_runs_of_one_name_are_refused(recipe: Path) -> None:
    grid = ["model.system_prompt=abc,abc-def", "rewards.0.name=def-ghi,ghi"]
    with pytest.raises(RecipeError, match="two runs of the sweep would both be tiny-abc-def-ghi"):
        plan_sweep(recipe, grid)


def test_how_far_a_run_is(recipe: Path, tmp_path: Path) -> None:
    (run,) = plan_sweep(recipe, ["train.steps=3"], None, (), tmp_path).runs

    def status() -> str:
        return run.status(evaluated=False)

    assert status() == "new"
    directory = RunDirectory(run.path)
    claim(directory, run.recipe, tmp_path)
    assert status() == "new"
    (directory.checkpoints / "step-000001").mkdir(parents=True)
    assert status() == "started"
    directory.adapter.mkdir()
    (directory.adapter / "adapter_config.json").write_text("{}")
    assert status() == "done"
    (other,) = plan_sweep(recipe, ["train.steps=3"], None, ["train.learning_rate=0.5"], tmp_path).runs
    assert other.status(evaluated=False) == "different"
    assert other.obstacle() == f"{run.path} was made with other values of train.learning_rate"
    assert run.obstacle() is None
    (measured,) = plan_sweep(recipe, ["train.steps=3"], None, ["eval.num_completions=9"], tmp_path).runs
    assert measured.status(evaluated=False) == "done"
