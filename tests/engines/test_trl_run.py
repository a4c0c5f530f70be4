"""`pgrpo train` with `engine.type: trl` in one process: the run directory is a run's, and it goes on."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch

from pgrpo_cli.data.batches import Batches
from pgrpo_cli.data.prepared import load_prepared
from pgrpo_cli.engines.trl import run as trl_run
from pgrpo_cli.engines.trl.run import build_trainer, rows_of
from pgrpo_cli.engines.world import World
from pgrpo_cli.errors import Interrupted
from pgrpo_cli.model.load.base_model import load_base_model, load_tokenizer
from pgrpo_cli.model.load.random_model import random_model, random_tokenizer
from pgrpo_cli.recipe.load import load_recipe
from pgrpo_cli.recipe.model import RandomModel
from pgrpo_cli.state.run import RunDirectory
from pgrpo_cli.verbs.train import train
from tests.support.loop import Watcher
from tests.support.training import TINY, metrics, pgrpo, steps_in, tables, trained, write_tiny

TRL = ("--set", "engine.type=trl")


def losses_and_rewards(run):
    return [(line["step"], line["loss"], line["reward_mean"], line["grad_norm"]) for line in metrics(run)]


def test_every_step_has_its_record_and_its_completions(whole):
    lines, rows = metrics(whole), tables(whole / "history.sqlite")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    recipe = RunDirectory(whole).recipe()
    for line in lines:
        assert line["learning_rate"] == recipe.train.learning_rate_at(line["step"])
        assert line["grad_norm"] > 0 and 0 < line["entropy"] < 10
        assert line["tokens"]["training"] >= line["tokens"]["completions"] > 12
        assert 0 <= line["padding_fraction"] < 1
    assert len(rows["completions"]) == 6 * 3 * 4
    assert sum(row[1] for row in rows["preference_groups"]) == 6 * 3 * 4
    assert steps_in(whole) == ["step-000002", "step-000004", "step-000006"]
    seconds = json.loads((whole / "metrics.jsonl").read_text().splitlines()[0])["seconds"]
    assert {"rollout", "reward", "training", "total"} <= seconds.keys()


def test_a_step_has_the_prompts_of_the_native_engine(whole):
    prompts, recipe = load_prepared(whole, "train"), RunDirectory(whole).recipe()
    found = tables(whole / "history.sqlite")["completions"]
    for step in range(1, 7):
        expected = [prompt.prompt_id for prompt in Batches(prompts, 3, recipe.seed).at(step)]
        assert [row[3] for row in found if row[0] == step and row[2] == 0] == expected


def test_the_sampler_is_the_recipes(whole):
    prompts, recipe = load_prepared(whole, "train"), RunDirectory(whole).recipe()
    section = recipe.train.model_copy(update={"sampler": "balanced"})
    found = rows_of(prompts, recipe.model_copy(update={"train": section}))
    expected = [
        p.prompt for step in range(1, 7) for p in Batches(prompts, 3, recipe.seed, "balanced").at(step)
    ]
    assert found["prompt"][:] == expected != rows_of(prompts, recipe)["prompt"][:]


def test_the_first_update_begins_from_the_native_engines_adapter(whole, tmp_path):
    """With a learning rate near 0 the adapters of both engines stay as they were made."""
    weights = []
    for options in ((), TRL):
        run = tmp_path / f"run{len(options)}"
        short = ("--set", "train.steps=1", "--set", "train.learning_rate=1e-12")
        trained(write_tiny(tmp_path), run, *short, *options)
        from safetensors.torch import load_file

        weights.append(load_file(run / "adapter" / "adapter_model.safetensors"))
    native, trl = weights
    assert native.keys() == trl.keys()
    for name in native:
        assert torch.allclose(native[name], trl[name], atol=1e-9) and native[name].dtype == trl[name].dtype


def test_nothing_is_told_of_a_run(tmp_path, monkeypatch):
    """TRL reports the models and data that its trainers are made for, unless a variable forbids it."""
    told = []
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", lambda *_, **what: told.append(what))
    train(write_tiny(tmp_path), run_dir=tmp_path / "run", overrides=["engine.type=trl", "train.steps=1"])
    assert told == []


def test_sampling_obeys_the_recipe_alone(tmp_path):
    """The generation config that comes with a model is no part of the recipe, except for its stop tokens."""
    folder, found = tmp_path / "model", []
    random_model(RandomModel(hidden_size=16, num_layers=2, num_heads=2)).save_pretrained(folder)
    random_tokenizer().save_pretrained(folder)
    path = folder / "generation_config.json"
    plain = json.loads(path.read_text())
    for own in ({}, {"min_new_tokens": 8, "no_repeat_ngram_size": 1, "typical_p": 0.2, "num_beams": 2}):
        path.write_text(json.dumps({**plain, **own}))
        recipe = write_tiny(tmp_path, model={**TINY["model"], "id": str(folder)})
        run = tmp_path / f"run{len(own)}"
        trained(recipe, run, *TRL, "--set", "train.steps=1")
        found.append(tables(run / "history.sqlite")["completions"])
    assert found[0] == found[1]


def test_the_base_models_own_dropout_is_off(whole, monkeypatch):
    recipe, device = RunDirectory(whole).recipe(), torch.device("cpu")
    base = load_base_model(recipe.model, whole, device)
    base.model.layers[0].self_attn.attention_dropout = 0.1
    monkeypatch.setattr(trl_run, "load_base_model", lambda *_: base)
    monkeypatch.setattr(trl_run, "RunTrainer", lambda **settings: settings["model"])
    model = build_trainer(
        RunDirectory(whole),
        recipe,
        load_tokenizer(recipe.model, whole),
        load_prepared(whole, "train"),
        None,
        World(0, 1),
        recipe_dir=whole,
        device=device,
        checkpoint=None,
        stop_requested=lambda: False,
    )
    assert model.get_base_model().model.layers[0].self_attn.attention_dropout == 0.0


def test_verbs_work_on_it_as_on_any_run(whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for words in (
        ("groups", run),
        ("doctor", run),
        ("eval", run),
        ("eval", run, "--checkpoint", 4),
        ("compare", run, run),
        ("export", run, "--to", "adapter"),
    ):
        result = pgrpo(*words)
        assert result.exit_code == 0, (words, result.stderr)
    assert (run / "eval" / "step-000006.json").exists() and (run / "eval" / "step-000004.json").exists()


def test_several_updates_make_one_step(tmp_path):
    section = {**TINY["train"], "updates_per_rollout": 2, "schedule": "constant"}
    narrow = {"clip_low": 1e-4, "clip_high": 1e-4}
    recipe, run = write_tiny(tmp_path, train=section, loss=narrow), tmp_path / "run"
    with pytest.raises(Interrupted):
        _stopped(recipe, run, after=3)
    trained(recipe, run, *TRL)
    rows = tables(run / "history.sqlite")
    assert [line["step"] for line in metrics(run)] == [1, 2, 3, 4, 5, 6]
    assert len(rows["completions"]) == sum(row[1] for row in rows["preference_groups"]) == 6 * 3 * 4
    state = json.loads((run / "checkpoints" / "step-000006" / "trl" / "trainer_state.json").read_text())
    assert state["global_step"] == 12
    # The second update of a step is off-policy.
    assert any(line["clip_fraction_low"] + line["clip_fraction_high"] > 0 for line in metrics(run))


def _stopped(recipe, run, after):
    train(recipe, run_dir=run, overrides=["engine.type=trl"], callbacks=Watcher(stop_after=after))


def test_rewards_normalised_each_by_itself_have_their_histories_and_parts(tmp_path):
    sections = {
        "rewards": [
            {"type": "length", "unit": "characters", "max": 6},
            {"type": "length", "name": "words", "unit": "words", "max": 3, "preference_groups": ["often"]},
        ],
        "advantage": {"aggregate": "normalize_then_sum"},
        "history": {"update": "after", "min_count": 8},
    }
    recipe, run = write_tiny(tmp_path, **sections), tmp_path / "run"
    with pytest.raises(Interrupted):
        _stopped(recipe, run, after=3)
    trained(recipe, run, *TRL)
    rows = tables(run / "history.sqlite")
    parts = {(row[0], row[-1]) for row in rows["preference_group_parts"]}
    assert {("often", "length"), ("often", "words")} <= parts and ("seldom", "words") not in parts
    recorded = [json.loads(row[6]) for row in rows["completions"] if row[4] == "often"]
    assert all({"length", "words"} == set(part) for part in recorded)


HALF = """
def reward(completions, **_):
    return [float(len(set(text))) if number % 4 < 2 else None for number, text in enumerate(completions)]
"""


@pytest.mark.parametrize("pieces", [3, 12])
def test_means_are_those_of_tokens_however_a_step_is_cut(tmp_path, pieces, monkeypatch):
    (tmp_path / "reward.py").write_text(HALF)
    rewards = [{"type": "python", "file": "reward.py", "function": "reward"}]
    # The second update of a step is off-policy, so that there is something to clip.
    train = {**TINY["train"], "steps": 2, "updates_per_rollout": 2, "schedule": "constant"}
    loss = {"beta": 0.1, "clip_low": 1e-4, "clip_high": 1e-4}
    found = []
    for number in (1, pieces):
        monkeypatch.setattr("pgrpo_cli.engines.trl.run.at_once", lambda *_, n=number: 12 // n)
        recipe = write_tiny(tmp_path, rewards=rewards, train=train, loss=loss)
        run = tmp_path / str(number)
        trained(recipe, run, "--allow-code", *TRL)
        found.append(metrics(run)[-1])
    for name in ("entropy", "kl", "clip_fraction_low", "clip_fraction_high"):
        assert found[1][name] == pytest.approx(found[0][name], rel=1e-3), name
        assert found[0][name] > 0
    # The policy is near the uniform distribution over 258 tokens.
    assert found[0]["entropy"] == pytest.approx(math.log(258), rel=0.01)


def test_a_step_without_rewards_has_no_such_means(tmp_path):
    (tmp_path / "reward.py").write_text(HALF.replace("if number % 4 < 2", "if False"))
    rewards = [{"type": "python", "file": "reward.py", "function": "reward"}]
    recipe, run = write_tiny(tmp_path, rewards=rewards, loss={"beta": 0.1}), tmp_path / "run"
    trained(recipe, run, "--allow-code", *TRL, "--set", "train.steps=1")
    (line,) = metrics(run)
    assert line["entropy"] is None and not {"kl", "clip_fraction_low"} & line.keys()
    assert pgrpo("doctor", run).exit_code in (0, 1)


def test_mistakes_in_engine_args_are_found_before_anything_is_made(tmp_path):
    recipe = write_tiny(tmp_path)
    result = pgrpo("train", recipe, "--run-dir", tmp_path / "run", *TRL, "--set", "engine.args={beta: 1}")
    assert result.exit_code == 2 and "engine.args.beta: loss.beta sets it" in result.stderr
    assert not (tmp_path / "run").exists()


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "trl", None)
    result = pgrpo("train", write_tiny(tmp_path), "--run-dir", tmp_path / "run", *TRL)
    assert result.exit_code == 2 and "pip install 'pgrpo-cli[trl]'" in result.stderr


def test_the_native_engine_under_a_launcher_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = pgrpo("train", write_tiny(tmp_path), "--run-dir", tmp_path / "run")
    assert result.exit_code == 2 and "--set engine.type=trl" in result.stderr


def test_a_shipped_recipe_has_the_native_engine():
    assert load_recipe("recipes/quickstart.yaml").engine.type == "native"
