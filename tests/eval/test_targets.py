"""What of a run is evaluated, and when an evaluation may be used again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.errors import CheckpointError, DataError, EvalError, RunError
from pgrpo_cli.eval.targets import EvalTarget, eval_target, kept_result, shares_base
from pgrpo_cli.model.policy import Paths
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.state.checksums import write_checksums
from pgrpo_cli.state.fingerprint import fingerprint_of, settle
from pgrpo_cli.state.paths import write_paths
from pgrpo_cli.state.results import write_result
from pgrpo_cli.state.run import RunDirectory
from pgrpo_cli.stats.result_types import EvalResult
from tests.support.results import result_of, spread
from tests.support.runs import add_checkpoint, add_curve, make_run, recipe_of

REWARDS = spread({"calm": 0.1, "loud": 0.2})


def target(path: Path, recipe: Recipe | None = None, **changes: Any) -> EvalTarget:
    """The target of a new run of `recipe`; `changes` are made to the recipe only after the run."""
    recipe = recipe or recipe_of()
    return eval_target(make_run(path, recipe), recipe_of(**changes) if changes else recipe, path)


def evaluation(target: EvalTarget, **changes: Any) -> EvalResult:
    """A made evaluation of the target."""
    return result_of(REWARDS, REWARDS, **(dict(target.header) | changes))


def test_the_finished_adapter_comes_first(tmp_path: Path) -> None:
    recipe = recipe_of(train__steps=24)
    run = make_run(tmp_path / "mine", recipe)
    add_checkpoint(run, 24, "checkpoint")
    found = eval_target(run, recipe, tmp_path)
    assert (found.adapter, found.header.step, found.warnings) == (run.adapter, 24, ())
    assert found.header.adapter_hash == hashlib.sha256(b"done").hexdigest()
    assert (found.header.run, found.header.data_hash) == ("mine", "d" * 64)
    assert found.path == run.eval_dir / "step-000024.json"
    assert found.group_sizes == {"calm": 30, "loud": 10}


def chosen_run(path: Path, macros: dict[int, float], **train: Any) -> tuple[RunDirectory, Recipe]:
    """A finished run with these heights of its curve by step, whose adapter is that of step 16."""
    recipe = recipe_of(train__steps=24, eval__every=8, **train)
    run = make_run(path, recipe)
    (run.adapter / "trainer.json").write_text('{"step": 16}')
    (run.adapter / "checksums.json").unlink()
    write_checksums(run.adapter)
    add_curve(run, macros)
    return run, recipe


MACROS = {0: 0.1, 8: 0.2, 16: 0.4, 24: 0.3}


def test_an_adapter_that_the_held_out_prompts_have_chosen_says_so(tmp_path: Path) -> None:
    # The best of the evaluations after steps 8, 16 and 24; that before the first step is no choice.
    run, recipe = chosen_run(tmp_path / "best", MACROS, train__keep_best="macro")
    found = eval_target(run, recipe, tmp_path)
    (note,) = found.notes
    assert "the best of 3 evaluations by macro (train.keep_best)" in note
    # An evaluation that says so already says it once, with the number of today.
    kept = evaluation(found)
    earlier = [*kept.notes, note.replace("best of 3", "best of 2")]
    write_result(kept.model_copy(update={"notes": earlier}), found.path)
    again = kept_result(found)
    assert again is not None and again.notes == [*kept.notes, note]


def test_an_adapter_that_nothing_has_chosen_has_no_such_note(tmp_path: Path) -> None:
    # Another checkpoint of such a run; a run that keeps its last step; the only evaluation there is.
    run, recipe = chosen_run(tmp_path / "best", MACROS, train__keep_best="macro")
    add_checkpoint(run, 8, "eight")
    assert eval_target(run, recipe, tmp_path, 8).notes == []
    run, recipe = chosen_run(tmp_path / "last", MACROS)
    assert eval_target(run, recipe, tmp_path).notes == []
    run, recipe = chosen_run(tmp_path / "one", {0: 0.1, 16: 0.4}, train__keep_best="macro")
    assert eval_target(run, recipe, tmp_path).notes == []


def test_an_unfinished_run_is_evaluated_at_its_newest_whole_checkpoint(tmp_path: Path) -> None:
    recipe = recipe_of(train__steps=24)
    run = make_run(tmp_path, recipe, adapter=None)
    whole = add_checkpoint(run, 8, "eight")
    (add_checkpoint(run, 16, "sixteen") / "adapter_model.safetensors").write_text("cut")
    found = eval_target(run, recipe, tmp_path)
    assert (found.adapter, found.header.step) == (whole, 8)
    assert "step-000016 is damaged" in found.warnings[0]
    assert "not finished: step 8 of 24" in found.warnings[1]


def test_a_checkpoint_is_evaluated_by_its_step(tmp_path: Path) -> None:
    recipe = recipe_of(train__steps=24)
    run = make_run(tmp_path, recipe)
    eight = add_checkpoint(run, 8, "eight")
    add_checkpoint(run, 16, "sixteen")
    found = eval_target(run, recipe, tmp_path, 8)
    assert (found.adapter, found.header.step, found.warnings) == (eight, 8, ())
    assert found.path == run.eval_dir / "step-000008.json"
    # The report stays about the finished adapter.
    assert found.page == run.eval_dir / "step-000008.html"
    last = eval_target(run, recipe, tmp_path, 24)
    assert (last.adapter, last.page) == (run.adapter, run.report_path)


def test_a_checkpoint_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    run = make_run(tmp_path, recipe_of())
    for step in (8, 16):
        add_checkpoint(run, step, "some")
    with pytest.raises(RunError, match="no checkpoint after step 9; it has: 8, 16"):
        eval_target(run, recipe_of(), tmp_path, 9)
    (run.checkpoints / "step-000008" / "adapter_model.safetensors").write_text("cut")
    with pytest.raises(CheckpointError, match="step-000008 is damaged"):
        eval_target(run, recipe_of(), tmp_path, 8)


def test_a_run_without_anything_trained(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nothing trained yet") as caught:
        eval_target(make_run(tmp_path, recipe_of(), adapter=None), recipe_of(), tmp_path)
    assert "pgrpo train" in str(caught.value.remedy)


def test_only_a_new_evaluation_needs_prepared_data(tmp_path: Path) -> None:
    run = make_run(tmp_path, recipe_of())
    mine = eval_target(run, recipe_of(), tmp_path)
    kept = evaluation(mine)
    write_result(kept, mine.path)
    (run.data / "manifest.json").unlink()
    found = eval_target(run, recipe_of(), tmp_path)
    assert (found.adapter, found.step, kept_result(found, any_settings=True)) == (run.adapter, 200, kept)
    with pytest.raises(DataError, match="has no prepared data"):
        _ = found.header


def test_an_adapter_without_weights(tmp_path: Path) -> None:
    run = make_run(tmp_path, recipe_of())
    (run.adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"is damaged \(adapter_model\.safetensors is missing\)"):
        eval_target(run, recipe_of(), tmp_path)


def test_another_recipe_is_refused_by_its_keys(tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        target(tmp_path, train__steps=9, eval__num_completions=2)
    assert "train.steps: 200 in the run, 9 in the recipe" in caught.value.message
    assert "eval" not in caught.value.message


def test_a_recipe_that_says_what_the_run_took_auto_as_is_its_own(tmp_path: Path) -> None:
    """`compare` evaluates the other run with the recipe of the target that it has, and another `eval`."""
    run = make_run(tmp_path, recipe_of())
    write_paths(run, Paths().as_record(), device="cpu", compute_dtype="bfloat16")
    found = eval_target(run, recipe_of(), tmp_path)
    assert found.recipe.model.compute_dtype == "bfloat16"
    assert eval_target(run, found.recipe, tmp_path).header == found.header
    with pytest.raises(RunError, match="'bfloat16' in the run, 'float32' in the recipe"):
        eval_target(run, recipe_of(model__compute_dtype="float32"), tmp_path)


def test_a_recipe_that_leaves_the_aggregation_open_is_that_of_a_run_with_another_one(tmp_path: Path) -> None:
    """Runs from before there was `auto` have sequence_mean with every estimator."""
    run = make_run(tmp_path, recipe_of(loss__aggregation="sequence_mean"))
    found = eval_target(run, recipe_of(), tmp_path)
    assert found.recipe.loss.aggregation == found.header.recipe["loss"]["aggregation"] == "sequence_mean"
    assert eval_target(run, found.recipe, tmp_path).header == found.header
    with pytest.raises(RunError, match="'sequence_mean' in the run, 'constant' in the recipe"):
        eval_target(run, recipe_of(loss__aggregation="constant"), tmp_path)


def test_the_way_to_evaluate_may_differ_from_the_recipe_of_the_run(tmp_path: Path) -> None:
    header = target(tmp_path, eval__num_completions=2, eval__max_prompts_per_group=3).header
    assert header.sampling == {
        "num_completions": 2,
        "max_completion_tokens": 64,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
    }
    assert header.max_prompts_per_group == 3


def test_precision_does_not_make_it_another_model(tmp_path: Path) -> None:
    plain = target(
        tmp_path / "a", recipe_of(model__quantization={"type": "none"}, model__compute_dtype="float32")
    )
    assert plain.header.model == target(tmp_path / "b").header.model
    assert plain.header.model["id"] == "random"


def test_the_header_says_the_compute_dtype_that_auto_was_taken_as(tmp_path: Path) -> None:
    recipe = recipe_of(model__compute_dtype="auto")
    run = make_run(tmp_path / "run", recipe)
    write_paths(run, Paths().as_record(), device="cuda", compute_dtype="float16")
    found = eval_target(run, recipe, tmp_path)
    assert found.header.recipe["model"]["compute_dtype"] == "float16"
    assert found.recipe.model.compute_dtype == "float16"
    assert "device" not in found.header.recipe["model"]


def test_a_python_reward_is_known_by_what_is_in_its_file(tmp_path: Path) -> None:
    recipe = recipe_of(rewards=[{"type": "python", "file": "mine.py"}])
    run = make_run(tmp_path / "run", recipe)
    (tmp_path / "mine.py").write_text("def reward(): ...")
    before = eval_target(run, recipe, tmp_path).header.rewards
    (tmp_path / "mine.py").write_text("def reward(): return 1")
    after = eval_target(run, recipe, tmp_path).header.rewards
    assert before != after
    assert before[0]["sha256"] == hashlib.sha256(b"def reward(): ...").hexdigest()


def test_a_taste_is_known_by_its_picks(tmp_path: Path) -> None:
    recipe = recipe_of(rewards=[{"type": "taste", "path": "taste.jsonl"}])
    run = make_run(tmp_path / "run", recipe)
    (tmp_path / "taste.jsonl").write_text("one")
    before = eval_target(run, recipe, tmp_path).header.rewards
    (tmp_path / "taste.jsonl").write_text("another")
    assert before != eval_target(run, recipe, tmp_path).header.rewards
    assert before[0]["sha256"] == hashlib.sha256(b"one").hexdigest()


@pytest.mark.parametrize(
    "reward",
    [
        {"type": "reward_model", "model": "judge"},
        {"type": "embedding", "model": "judge"},
        {"type": "taste", "path": "taste.jsonl", "embedding": {"model": "judge"}},
    ],
    ids=["reward_model", "embedding", "taste"],
)
def test_a_reward_is_known_by_what_is_in_its_models_files(tmp_path: Path, reward: dict[str, Any]) -> None:
    recipe = recipe_of(rewards=[reward])
    run = make_run(tmp_path / "run", recipe)
    (tmp_path / "taste.jsonl").write_text("one")
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "model.safetensors").write_text("one")
    mine = eval_target(run, recipe, tmp_path)
    write_result(evaluation(mine), mine.path)
    assert kept_result(eval_target(run, recipe, tmp_path)) is not None
    (tmp_path / "judge" / "model.safetensors").write_text("another")
    assert kept_result(eval_target(run, recipe, tmp_path)) is None


def test_a_reward_whose_model_is_not_here_is_known_by_its_section(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args, **kwargs: None)
    for name in ("./gone", "someone/model"):
        recipe = recipe_of(rewards=[{"type": "reward_model", "model": name}])
        run = make_run(tmp_path / "run" / name.replace("/", "-"), recipe)
        assert set(eval_target(run, recipe, tmp_path).header.rewards[0]) == set(
            recipe.rewards[0].model_dump(mode="json")
        )


def test_an_evaluation_is_kept_and_found_again(tmp_path: Path) -> None:
    mine = target(tmp_path)
    assert kept_result(mine) is None
    write_result(evaluation(mine), mine.path)
    assert kept_result(mine) == evaluation(mine)


@pytest.mark.parametrize("any_settings", [False, True])
def test_the_evaluation_of_a_renamed_run_has_its_new_name(tmp_path: Path, any_settings: bool) -> None:
    mine = target(tmp_path / "old")
    write_result(evaluation(mine), mine.path)
    mine.run.path.rename(tmp_path / "new")
    renamed = eval_target(RunDirectory(tmp_path / "new"), mine.recipe, tmp_path)
    found = kept_result(renamed, any_settings=any_settings)
    assert found is not None and (evaluation(mine).run, found.run) == ("old", "new")


@pytest.mark.parametrize(
    "changes",
    [
        {"adapter_hash": "c" * 64},
        {"data_hash": "e" * 64},
        {"sampling": {"num_completions": 1, "temperature": 1.0}},
        {"rewards": []},
        {"model": {"id": "other"}},
        {"seed": 99},
        {"max_prompts_per_group": 1},
        {"bootstrap_samples": 100},
        {"confidence": 0.5},
    ],
)
def test_an_evaluation_made_otherwise_is_not_used_again(tmp_path: Path, changes: dict[str, Any]) -> None:
    mine = target(tmp_path)
    write_result(evaluation(mine, **changes), mine.path)
    assert kept_result(mine) is None
    found = kept_result(mine, any_settings=True)
    assert (found is None) == ("adapter_hash" in changes)


def test_a_damaged_evaluation_is_not_passed_over(tmp_path: Path) -> None:
    mine = target(tmp_path)
    mine.path.parent.mkdir()
    mine.path.write_text("{")
    with pytest.raises(EvalError, match="is damaged"):
        kept_result(mine)


def test_runs_of_other_methods_share_the_base_model(tmp_path: Path) -> None:
    mine = target(tmp_path / "a", recipe_of(advantage__estimator="grpo", train__learning_rate=0.5))
    assert shares_base(target(tmp_path / "b").header, evaluation(mine))


@pytest.mark.parametrize(
    "recipe",
    [
        recipe_of(seed=3),
        recipe_of(eval__num_completions=9),
        recipe_of(model__compute_dtype="float32"),
        recipe_of(rewards=[{"type": "length", "max": 3}]),
    ],
)
def test_what_the_base_model_says_depends_on(tmp_path: Path, recipe: Recipe) -> None:
    assert not shares_base(target(tmp_path / "a").header, evaluation(target(tmp_path / "b", recipe)))


def test_other_versions_of_packages_are_not_mixed(tmp_path: Path) -> None:
    mine = target(tmp_path)
    assert "torch" in mine.header.versions
    assert not shares_base(mine.header, evaluation(mine, versions={"torch": "0.1"}))


def on_a_base(folder: Path, weights: str) -> EvalTarget:
    """The target of a run, trained on the model in the folder `base` beside it, which has these weights."""
    (folder / "base").mkdir(parents=True, exist_ok=True)
    (folder / "base" / "model.safetensors").write_text(weights)
    recipe = recipe_of(model__id="./base")
    run = RunDirectory(folder / "run")
    if not run.path.exists():
        make_run(run.path, recipe)
        settle(run, fingerprint_of(run, recipe.model, recipe.rewards, folder), step=None, accept=False)
    return eval_target(run, recipe, folder)


def test_a_base_model_is_known_by_its_files(tmp_path: Path) -> None:
    mine = on_a_base(tmp_path / "a", "one")
    write_result(evaluation(mine), mine.path)
    assert kept_result(on_a_base(tmp_path / "a", "one")) == evaluation(mine)
    same, other = on_a_base(tmp_path / "b", "one"), on_a_base(tmp_path / "c", "another")
    assert shares_base(same.header, evaluation(mine)) and not shares_base(other.header, evaluation(mine))
    assert kept_result(on_a_base(tmp_path / "a", "another")) is None


def test_a_base_model_that_has_changed_since_training_is_said(tmp_path: Path) -> None:
    assert on_a_base(tmp_path, "one").warnings == ()
    (warning,) = on_a_base(tmp_path, "another").warnings
    assert "model.id is not what it was when" in warning and "last trained" in warning
    # Whoever evaluates need not have the fingerprint, and may have a damaged one.
    (tmp_path / "run" / "fingerprint.json").write_text("{")
    (warning,) = on_a_base(tmp_path, "one").warnings
    assert "fingerprint.json is damaged" in warning
    (tmp_path / "run" / "fingerprint.json").unlink()
    assert on_a_base(tmp_path, "one").warnings == ()


def test_an_evaluation_that_does_not_know_its_base_model_is_of_its_own_run(tmp_path: Path) -> None:
    mine = on_a_base(tmp_path / "a", "one")
    kept = evaluation(mine, model_files=None)
    write_result(kept, mine.path)
    assert kept_result(mine) == kept
    assert not shares_base(on_a_base(tmp_path / "b", "one").header, kept)
    # Nor can a model be known that is not here.
    (tmp_path / "a" / "base" / "model.safetensors").unlink()
    (tmp_path / "a" / "base").rmdir()
    gone = eval_target(mine.run, mine.recipe, tmp_path / "a")
    assert (gone.header.model_files, gone.warnings) == (None, ())
    write_result(evaluation(mine), mine.path)
    assert kept_result(gone) == evaluation(mine)


def test_a_chat_template_of_the_recipe_belongs_to_the_model(tmp_path: Path) -> None:
    recipe = recipe_of(model__chat_template="mine.jinja")
    run = make_run(tmp_path / "run", recipe)
    headers = []
    for text in ("one", "another"):
        (tmp_path / "mine.jinja").write_text(text)
        headers.append(eval_target(run, recipe, tmp_path).header.model_files)
    assert headers[0] != headers[1]
