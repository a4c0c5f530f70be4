"""`prepare` and `train` as a user meets them: where a run lands, whose it is, and when it is done."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest

from pgrpo_cli.recipe.load import load_recipe, load_resolved
from pgrpo_cli.recipe.resolved import with_aggregation
from pgrpo_cli.state.run import RunDirectory, locked
from tests.support.recipes import TEN_MISTAKES, TEN_PROBLEMS
from tests.support.training import TINY, files_in, metrics, outcome, pgrpo, steps_in, trained, write_tiny


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_tiny(tmp_path)


@pytest.fixture
def run(recipe: Path) -> Path:
    """A finished run."""
    trained(recipe, recipe.parent / "run")
    return recipe.parent / "run"


def test_a_run_from_start_to_end(recipe: Path) -> None:
    run = recipe.parent / "run"
    result = trained(recipe, run)
    assert result.stdout == f"finished: the adapter is in {run / 'adapter'}\n"
    lines = [line for line in result.stderr.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in lines] == [f"{n}/6" for n in range(1, 7)]
    assert all(f"reward {m['reward_mean']:.3f}" in line for m, line in zip(metrics(run), lines, strict=True))
    assert steps_in(run) == ["step-000002", "step-000004", "step-000006"]
    assert load_resolved(run / "recipe.yaml") == with_aggregation(load_recipe(recipe))
    assert sorted(path.name for path in run.iterdir()) == [
        ".lock", ".pgrpo-run", "adapter", "checkpoints", "data", "fingerprint.json", "history.sqlite",
        "metrics.jsonl", "origin.json", "paths.json", "recipe.yaml",
    ]  # fmt: skip


def test_commands_to_go_on_with_can_be_pasted_whatever_the_path(recipe: Path) -> None:
    run = recipe.parent / "a run; here"
    template = "{{ messages[0].content }}:"
    result = trained(recipe, run, "--set", "train.steps=1", "--set", f"model.chat_template={template!r}")
    command = next(line for line in result.stderr.splitlines() if line.startswith("Next: "))
    assert shlex.split(command.removeprefix("Next: ")) == ["pgrpo", "eval", str(run)]
    assert (run / "adapter" / "chat_template.jinja").read_text() == template


def test_quiet_prints_the_result_only(recipe: Path) -> None:
    run = recipe.parent / "run"
    result = trained(recipe, run, "--quiet")
    assert (result.stdout, result.stderr) == (f"finished: the adapter is in {run / 'adapter'}\n", "")


def test_the_default_directory_is_named_after_the_recipe(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recipe.parent)
    result = pgrpo("train", "tiny.yaml", "--set", "train.steps=1")
    assert result.stdout == "finished: the adapter is in runs/tiny/adapter\n"


def test_a_finished_run_says_so_and_is_left_alone(recipe: Path, run: Path) -> None:
    before = files_in(run)
    written = (run / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns
    result = trained(recipe, run)
    assert f"{run} is finished" in result.stdout
    assert "--fresh" in result.stdout
    assert files_in(run) == before
    assert (run / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns == written


def test_a_finished_run_goes_on_as_if_it_had_been_longer_from_the_start(tmp_path: Path) -> None:
    train = {"prompts_per_step": 3, "learning_rate": 0.01, "save_every": 2, "schedule": "constant"}
    recipe = write_tiny(tmp_path, train={**train, "steps": 4})
    run, whole, more = tmp_path / "run", tmp_path / "whole", ("--set", "train.steps=6")
    trained(recipe, run)
    adapter = files_in(run / "adapter")
    result = trained(recipe, run, *more)
    assert result.stdout.startswith("resumed from step 4\n")
    assert f"{run} continues from step 4 to 6 instead of 4; the finished adapter stays" in result.stderr
    assert files_in(run / "adapter.replaced-1") == adapter
    shutil.rmtree(run / "adapter.replaced-1")
    trained(recipe, whole, *more)
    assert outcome(run) == outcome(whole)
    assert "is finished" in trained(recipe, run, *more).stdout
    refused = pgrpo("train", recipe, "--run-dir", run)
    assert refused.exit_code == 2
    assert "has done 6 steps, and train.steps is 4 now" in refused.stderr
    assert outcome(run) == outcome(whole)


@pytest.mark.parametrize("finished", [True, False])
def test_another_recipe_is_refused_by_its_keys(recipe: Path, run: Path, finished: bool) -> None:
    if not finished:
        (run / "adapter").rename(recipe.parent / "elsewhere")
    before = files_in(run)
    keys = ("seed=2", "rollout.top_k=3", "loss.beta=0.1")
    changes = [word for key in keys for word in ("--set", key)]
    result = pgrpo("train", recipe, "--run-dir", run, *changes)
    assert result.exit_code == 2
    assert "  seed: 1 in the run, 2 in the recipe\n" in result.stderr
    assert "  rollout.top_k: 0 in the run, 3 in the recipe\n" in result.stderr
    assert "  loss.beta: 0.0 in the run, 0.1 in the recipe\n" in result.stderr
    assert "learning_rate" not in result.stderr
    assert files_in(run) == before


def test_fresh_starts_beside_and_changes_nothing(recipe: Path, run: Path) -> None:
    assert "--fresh" in pgrpo("train", "--help").stdout
    before = files_in(run)
    second, third = run.with_name("run-2"), run.with_name("run-3")
    assert str(second) in trained(recipe, run, "--fresh").stdout
    assert outcome(second) == outcome(run)
    assert str(third) in trained(recipe, run, "--fresh", "--set", "train.steps=1").stdout
    assert len(metrics(third)) == 1
    assert files_in(run) == before


def test_a_run_has_one_writer(recipe: Path) -> None:
    run = RunDirectory(recipe.parent / "run")
    pgrpo("prepare", recipe, "--run-dir", run.path)
    with locked(run):
        second = pgrpo("train", recipe, "--run-dir", run.path, "--set", "seed=5")
    assert (second.exit_code, "by another process" in second.stderr) == (2, True)
    # Before the first step a recipe may be replaced, but not under the feet of the one who holds the run.
    assert run.recipe().seed == 1
    trained(recipe, run.path)


def test_a_recipe_written_by_hand_is_not_replaced(recipe: Path) -> None:
    mine = recipe.rename(recipe.with_name("recipe.yaml"))
    before = mine.read_bytes()
    result = pgrpo("train", mine, "--run-dir", mine.parent)
    assert result.exit_code == 2
    assert "is not a run's directory: it holds recipe.yaml" in result.stderr
    assert mine.read_bytes() == before


@pytest.mark.parametrize("command", ["prepare", "train"])
def test_the_users_own_folder_is_no_run_directory(
    tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.jsonl").write_text('{"prompt": "Hello", "preference_group": "a"}\n')
    before = files_in(tmp_path)
    monkeypatch.chdir(tmp_path)
    source = "data.source={type: jsonl, path: data/mine.jsonl}"
    result = pgrpo(command, "tiny.yaml", "--run-dir", ".", "--set", source)
    assert result.exit_code == 2
    assert "error: . is not a run's directory: it holds data, rows.jsonl, tiny.yaml;" in result.stderr
    assert files_in(tmp_path) == before


def test_a_run_that_is_reached_by_a_link_or_renamed_or_copied_goes_on(recipe: Path, run: Path) -> None:
    (run / "adapter").rename(recipe.parent / "elsewhere")
    shutil.copytree(run, run.with_name("copy"))
    run.with_name("link").symlink_to(run)
    for name in ("copy", "link"):
        trained(recipe, run.with_name(name))
    assert outcome(run.with_name("copy")) == outcome(run)


def test_a_run_directory_that_is_a_file(recipe: Path) -> None:
    result = pgrpo("train", recipe, "--run-dir", recipe)
    assert (result.exit_code, "is a file" in result.stderr) == (2, True)


@pytest.mark.parametrize("command", ["prepare", "train"])
def test_ten_mistakes_are_told_at_once_before_anything_is_made(tmp_path: Path, command: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(TEN_MISTAKES)
    result = pgrpo(command, recipe, "--run-dir", tmp_path / "run")
    assert (result.exit_code, result.stdout) == (2, "")
    told = [line.strip() for line in result.stderr.replace(f"{tmp_path}/", "").splitlines()]
    assert told[0] == "error: recipe.yaml has 10 problems"
    assert told[1:11] == TEN_PROBLEMS.splitlines()
    assert not (tmp_path / "run").exists()


def test_prepare_then_train(recipe: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(recipe.parent)
    prepared = pgrpo("prepare", "tiny.yaml", "--run-dir", "other", "--set", "train.steps=6")
    assert prepared.exit_code == 0
    command = prepared.stderr.splitlines()[-1].removeprefix("Next: ")
    assert command == "pgrpo train tiny.yaml --run-dir other --set train.steps=6"
    data = files_in(Path("other/data"))
    result = pgrpo(*shlex.split(command)[1:])
    assert result.exit_code == 0
    assert "(unchanged)" in result.stderr
    assert files_in(Path("other/data")) == data
    assert outcome(Path("other")) == outcome(run)


def test_a_run_in_float16_that_goes_on_is_as_one_that_was_not_stopped(tmp_path: Path) -> None:
    train = {**TINY["train"], "schedule": "constant", "warmup_steps": 0}
    model = {**TINY["model"], "compute_dtype": "float16"}
    recipe = write_tiny(tmp_path, model=model, train=train)
    trained(recipe, tmp_path / "whole", "--set", "train.steps=4")
    for steps in (2, 4):
        trained(recipe, tmp_path / "parts", "--set", f"train.steps={steps}")
    whole, parts = (files_in(tmp_path / name / "checkpoints" / "step-000004") for name in ("whole", "parts"))
    assert b'"loss_scale": 1024.0' in whole["trainer.json"]
    assert whole == parts
