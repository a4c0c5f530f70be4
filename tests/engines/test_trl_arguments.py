"""One table from keys of the recipe to arguments of TRL's GRPOConfig; the rest by `engine.args`, checked."""

from __future__ import annotations

import sys
from datetime import timedelta

import pytest
import torch
from trl import GRPOConfig

from pgrpo_cli.engines.trl.arguments import (
    DERIVED,
    OURS,
    TABLE,
    grpo_arguments,
    mapped,
    refuse_arguments,
)
from pgrpo_cli.engines.trl.run import at_once, joined, shared_out
from pgrpo_cli.engines.world import World
from pgrpo_cli.errors import RecipeError
from pgrpo_cli.recipe.engine import TrlEngine
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.recipe.shape import leaves
from tests.support.policies import make_prompts
from tests.support.recipes import changed

# A value that is not the default, and what TRL gets for it.
VALUES = {
    "seed": (7, 7),
    "model.compute_dtype": ("bfloat16", True),
    "rollout.num_generations": (6, 6),
    "rollout.max_completion_tokens": (33, 33),
    "rollout.temperature": (0.7, 0.7),
    "rollout.top_p": (0.9, 0.9),
    "rollout.top_k": (40, 40),
    "loss.aggregation": ("token_mean", "dapo"),
    "loss.clip_low": (0.1, 0.1),
    "loss.clip_high": (0.3, 0.3),
    "loss.beta": (0.05, 0.05),
    "train.updates_per_rollout": (3, 3),
    "train.optimizer.type": ("adamw_8bit", "adamw_bnb_8bit"),
    "train.optimizer.beta1": (0.8, 0.8),
    "train.optimizer.beta2": (0.95, 0.95),
    "train.optimizer.epsilon": (1e-6, 1e-6),
    "train.optimizer.weight_decay": (0.2, 0.2),
    "train.learning_rate": (3e-4, 3e-4),
    "train.schedule": ("constant", "constant"),
    "train.warmup_steps": (4, 4),
    "train.max_grad_norm": (0.5, 0.5),
    "train.gradient_checkpointing": (True, True),
}
# Keys of these sections that become no argument of their own, and what does with them what they say.
OTHERWISE = {
    "rollout.tokens_per_batch": "refused unless auto (recipe/engine.py)",
    "train.steps": "max_steps",
    "train.prompts_per_step": "per_device_train_batch_size",
    "train.tokens_per_micro_batch": "per_device_train_batch_size",
    "train.deterministic": "refused (recipe/engine.py)",
    "train.sampler": "the rows of the data set come in its order",
    "train.save_every": "RunTrainer saves",
    "train.keep_best": "needs eval.every, which is refused (recipe/engine.py)",
    "train.stop_after": "needs train.keep_best",
    "train.keep_checkpoints": "the run's checkpoints are kept and dropped as ever",
}


def recipe_of(**values):
    return Recipe.model_validate(changed(**{"engine__type": "trl", **values}))


def arguments_of(folder, each=12, together=4, **values):
    common = {"rollout__num_generations": 4, "model__compute_dtype": "float32"}
    recipe = recipe_of(**{**common, **values})
    return grpo_arguments(
        recipe,
        output_dir=str(folder),
        on_cpu=True,
        completions_per_process=each,
        completions_at_once=together,
    )


@pytest.mark.parametrize("key", VALUES)
def test_a_key_becomes_its_argument(tmp_path, key):
    value, expected = VALUES[key]
    (entry,) = (entry for entry in TABLE if entry.key == key)
    name = key.replace(".", "__")
    optimizer = {} if key == "train.optimizer.type" else {"train__optimizer__type": "adamw"}
    recipe = recipe_of(**{**optimizer, name: value})
    assert mapped(recipe)[entry.argument] == expected
    changed_to = arguments_of(tmp_path, each=12, **{**optimizer, name: value})
    assert getattr(changed_to, entry.argument) == expected
    assert getattr(arguments_of(tmp_path), entry.argument) != expected


def test_the_table_is_whole():
    assert [entry.key for entry in TABLE] == list(VALUES)
    known = {".".join(leaf) for leaf in leaves(Recipe)}
    of_sections = {key for key in known if key.startswith(("rollout.", "loss.", "train."))}
    of_sections -= {"train.optimizer"}
    assert of_sections == {key for key in VALUES if "." in key and key[:5] != "model"} | set(OTHERWISE)


def test_an_aggregation_that_is_open_is_that_of_the_estimator():
    assert mapped(recipe_of())["loss_type"] == "dr_grpo"
    assert mapped(recipe_of(advantage__estimator="grpo"))["loss_type"] == "grpo"


def test_a_step_is_one_batch_of_completions_and_steps_are_counted_in_updates(tmp_path):
    found = arguments_of(tmp_path, train__steps=10, train__updates_per_rollout=3)
    assert (found.max_steps, found.num_iterations) == (30, 3)
    assert (found.per_device_train_batch_size, found.gradient_accumulation_steps) == (4, 3)
    assert found.generation_batch_size == 12


def test_arguments_of_the_recipe_are_passed_through(tmp_path):
    found = arguments_of(tmp_path, engine__args={"min_p": 0.1, "dataloader_num_workers": 1})
    assert (found.min_p, found.dataloader_num_workers) == (0.1, 1)
    assert all(getattr(found, name) == value for name, value in OURS.items() if name != "report_to")


@pytest.mark.parametrize("of_launcher", ["fp16", "bf16", "no"])
def test_the_dtype_is_the_recipes_whatever_a_launcher_was_configured_for(tmp_path, monkeypatch, of_launcher):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", of_launcher)
    assert arguments_of(tmp_path).mixed_precision == "no"
    assert arguments_of(tmp_path, model__compute_dtype="bfloat16").mixed_precision == "bf16"


def test_vllm_is_passed_through(tmp_path):
    # No trainer is made of it here: that needs vLLM and a GPU.
    model = {"id": "a/b", "quantization": {"type": "none"}, "compute_dtype": "float32"}
    vllm = {"mode": "server", "server_base_url": "http://localhost:8001"}
    found = arguments_of(tmp_path, model=model, engine__vllm=vllm)
    assert (found.use_vllm, found.vllm_mode) == (True, "server")
    assert found.vllm_server_base_url == "http://localhost:8001"
    assert found.vllm_gpu_memory_utilization == 0.3


def test_what_trl_refuses_is_said_in_its_words(tmp_path):
    with pytest.raises(RecipeError, match=r"TRL refuses the arguments.*auto_find_batch_size"):
        arguments_of(tmp_path, engine__args={"auto_find_batch_size": True})


REFUSED = {
    "learning_rat": (1, "GRPOConfig has no such argument; did you mean 'learning_rate'?"),
    "learning_rate": (1e-3, "train.learning_rate sets it"),
    "activation_checkpointing": (True, "train.gradient_checkpointing sets it"),
    "max_steps": (1, "train.steps and train.updates_per_rollout sets it"),
    "vllm_mode": ("server", "engine.vllm.mode sets it"),
    "report_to": ("wandb", "always 'none'"),
    "push_to_hub": (True, "stays where it is"),
    "ddp_backend": ("mpi", "torch chooses"),
    "hub_token": ("x", "stays where it is"),
    "save_steps": (3, "train.save_every"),
    "trust_remote_code": (True, "no code of a model is run"),
    "scale_rewards": ("batch", "`advantage`"),
    "log_completions": (True, "history.sqlite"),
    "num_completions_to_print": (3, "history.sqlite"),
    "generation_kwargs": ({"temperature": 0.5}, "rollout.temperature sets temperature"),
    "lr_scheduler_kwargs": ({"num_cycles": 3}, "`train`"),
    "ignore_data_skip": (True, "always False"),
    "dataloader_num_workers": ("2", "found '2'; must be a whole number"),
    "min_p": (True, "found True; must be a number or null"),
    "use_liger_kernel": (1, "found 1; must be true or false"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_arguments_are_refused_with_the_reason(name):
    value, reason = REFUSED[name]
    with pytest.raises(RecipeError) as refusal:
        refuse_arguments(TrlEngine(args={name: value}), on_cpu=True)
    assert f"engine.args.{name}: " in refusal.value.message and reason in refusal.value.message


KEYS = {
    "temperature": "rollout.temperature",
    "top_k": "rollout.top_k",
    "max_new_tokens": "rollout.max_completion_tokens",
    "max_tokens": "rollout.max_completion_tokens",
    "num_return_sequences": "rollout.num_generations",
    "do_sample": "rollout.temperature",
}


@pytest.mark.parametrize("name", KEYS)
def test_what_the_recipe_says_of_sampling_cannot_be_said_otherwise(name):
    engine = TrlEngine(args={"generation_kwargs": {"typical_p": 0.9, name: 1}})
    with pytest.raises(RecipeError) as refusal:
        refuse_arguments(engine, on_cpu=True)
    assert refusal.value.message == f"engine.args.generation_kwargs: {KEYS[name]} sets {name}"


def test_other_settings_of_sampling_are_passed_through(tmp_path):
    args = {"generation_kwargs": {"typical_p": 0.9}}
    refuse_arguments(TrlEngine(args=args), on_cpu=True)
    # transformers would read the JSON in a text.
    with pytest.raises(RecipeError, match="must be a mapping or null"):
        refuse_arguments(TrlEngine(args={"generation_kwargs": '{"temperature": 1}'}), on_cpu=True)
    assert arguments_of(tmp_path, engine__args=args).generation_kwargs == {"typical_p": 0.9}


def test_a_package_that_an_argument_needs_is_named(monkeypatch):
    engine = TrlEngine(args={"use_liger_kernel": True})
    monkeypatch.setattr("pgrpo_cli.engines.trl.arguments.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"liger_kernel is not installed \(pip install liger-kernel\)"):
        refuse_arguments(engine, on_cpu=True)
    refuse_arguments(TrlEngine(args={"use_liger_kernel": False}), on_cpu=True)
    monkeypatch.setattr("pgrpo_cli.engines.trl.arguments.find_spec", lambda name: object())
    refuse_arguments(engine, on_cpu=True)


def test_all_mistakes_are_said_at_once():
    with pytest.raises(RecipeError) as refusal:
        refuse_arguments(TrlEngine(args={"a": 1, "min_p": "b"}), on_cpu=True)
    assert refusal.value.message.count("engine.args.") == 2


def test_every_argument_is_known_by_one_rule_at_most():
    ours = [entry.argument for entry in TABLE]
    assert len(ours) == len(set(ours)) and not set(ours) & set(DERIVED)
    fields = GRPOConfig.__dataclass_fields__
    assert {*ours, *DERIVED, *OURS} <= fields.keys()


def test_vllm_that_cannot_run_is_refused(monkeypatch):
    engine = TrlEngine(vllm={"mode": "server", "server_base_url": "http://gpu7:8000"})
    with pytest.raises(RecipeError, match="computes on the CPU"):
        refuse_arguments(engine, on_cpu=True, allowed_hosts=["gpu7"])
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setattr("pgrpo_cli.engines.trl.arguments.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"not installed.*--allow-host gpu7"):
        refuse_arguments(engine, on_cpu=False)
    monkeypatch.setattr("pgrpo_cli.engines.trl.arguments.find_spec", lambda name: object())
    refuse_arguments(engine, on_cpu=False, allowed_hosts=["GPU7"])
    refuse_arguments(TrlEngine(vllm={"mode": "server"}), on_cpu=False)


@pytest.mark.parametrize(("args", "seconds"), [({}, 1800), ({"ddp_timeout": 7200}, 7200)])
def test_processes_wait_for_each_other_as_long_as_the_recipe_says(monkeypatch, args, seconds):
    """What GRPOConfig says of it comes too late: the processes have met by then."""
    met = {}

    class Met:
        process_index, num_processes = 1, 2

        def __init__(self, **options):
            met.update(options)

    monkeypatch.setattr("pgrpo_cli.engines.trl.run.PartialState", Met)
    assert joined(torch.device("cpu"), TrlEngine(args=args)) == World(1, 2)
    assert met == {"cpu": True, "timeout": timedelta(seconds=seconds)}


def test_completions_are_shared_out_evenly_or_not_at_all():
    recipe = recipe_of(train__prompts_per_step=6, rollout__num_generations=4)
    assert [shared_out(recipe, size) for size in (1, 2, 3)] == [24, 12, 8]
    with pytest.raises(RecipeError, match=r"24 completions .* to 5 processes"):
        shared_out(recipe, 5)


@pytest.mark.parametrize(("tokens", "expected"), [(1, 1), (29, 1), (30, 2), (89, 4), (90, 6), (10_000, 12)])
def test_a_micro_batch_is_the_largest_divisor_that_the_budget_has_room_for(tokens, expected):
    # Prompts of at most 9 tokens and completions of 6: 15 tokens each.
    recipe = recipe_of(train__tokens_per_micro_batch=tokens, rollout__max_completion_tokens=6)
    assert at_once(recipe, make_prompts((9, 4)), 12) == expected
