"""PGRPOTrainer: the native engine's advantages and loss, from the same rollouts."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from pgrpo_cli.algo.estimators import PRESETS
from pgrpo_cli.errors import CheckpointError
from tests.support.policies import tiny_policy
from tests.support.trl_engine import (
    LOSS_TYPES,
    PROMPTS,
    STEPS,
    G,
    Watched,
    arguments,
    as_trl_reward,
    copied,
    native_steps,
    of_odd_starts_only,
    recipe_of,
    rows_of,
    small,
    trl_steps,
    vowels,
)

warnings.filterwarnings("ignore", message=".*rollout_func.*")
ONE = {"vowels": vowels}
TWO = {"vowels": vowels, "small": small}
N = G * len(PROMPTS)


def both(folder, rewards=ONE, pieces=1, **values):
    """Steps of both engines on the same rollouts, in float32."""
    recipe = recipe_of(**values)
    policy = tiny_policy(dtype=torch.float32)
    copy = copied(policy)
    native = native_steps(policy, recipe, rewards)
    cut = {"per_device_train_batch_size": N // pieces, "gradient_accumulation_steps": pieces}
    return native, trl_steps(copy, recipe, native, rewards, folder, **cut)


def assert_equal(native, trainer):
    """To 1e-6, relative to numbers above 1: advantages, losses, gradients; histories to 1e-12."""
    assert len(trainer.seen) == STEPS
    for ours, theirs in zip(native.advantages, trainer.seen, strict=True):
        assert theirs == pytest.approx(ours, rel=1e-6, abs=1e-6)
        assert max(map(abs, ours)) > 0.1
    logged = trainer.state.log_history[:STEPS]
    assert [line["loss"] for line in logged] == pytest.approx(native.losses, rel=1e-6, abs=1e-6)
    assert [line["grad_norm"] for line in logged] == pytest.approx(native.grad_norms, rel=1e-4)
    stats = trainer.history.stats()
    assert list(stats) == list(native.histories.history.stats())
    for name, ours in native.histories.history.stats().items():
        assert vars(stats[name]) == pytest.approx(vars(ours), rel=1e-12)


@pytest.mark.parametrize("aggregation", LOSS_TYPES)
@pytest.mark.parametrize("estimator", PRESETS)
def test_every_estimator_and_aggregation_is_the_native_engines(tmp_path, estimator, aggregation):
    values = {"advantage__estimator": estimator, "loss__aggregation": aggregation}
    assert_equal(*both(tmp_path, **values))


@pytest.mark.parametrize("scale", ["within", "batch"])
def test_a_custom_estimator_is_the_native_engines(tmp_path, scale):
    custom = {"estimator": "custom", "baseline": "leave_one_out", "scale": scale}
    assert_equal(*both(tmp_path, advantage=custom))


def test_clipped_advantages_are_the_native_engines(tmp_path):
    native, trainer = both(tmp_path, advantage={"clip": 0.75})
    assert_equal(native, trainer)
    assert max(map(max, trainer.seen)) == 0.75


@pytest.mark.parametrize(
    "history",
    [
        {"update": "after", "min_count": 10},
        {"kind": {"type": "ema", "decay": 0.9}},
        {"kind": {"type": "window", "size": 12}, "update": "after", "min_count": 8},
    ],
    ids=["after", "ema", "window"],
)
def test_every_history_and_order_is_the_native_engines(tmp_path, history):
    assert_equal(*both(tmp_path, history=history))


@pytest.mark.parametrize("renormalize", [False, True])
def test_rewards_normalised_each_by_itself_are_the_native_engines(tmp_path, renormalize):
    advantage = {"aggregate": "normalize_then_sum", "renormalize": renormalize}
    native, trainer = both(tmp_path, TWO, advantage=advantage)
    assert_equal(native, trainer)
    pairs = list(zip(native.histories.parts.all_stats(), trainer.histories.parts.all_stats(), strict=True))
    assert len(pairs) == 4
    for (*key, ours), (*their_key, theirs) in pairs:
        assert their_key == key
        assert vars(theirs) == pytest.approx(vars(ours), rel=1e-12)


@pytest.mark.parametrize("aggregation", LOSS_TYPES)
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_a_completion_without_a_reward_trains_nothing(tmp_path, aggregation, beta):
    """The KL penalty does not count it either, in micro-batches of which some have none but such."""
    values = {"loss__aggregation": aggregation, "loss__beta": beta}
    native, trainer = both(tmp_path, {"vowels": of_odd_starts_only}, pieces=4, **values)
    assert_equal(native, trainer)
    missing = N * STEPS - sum(s.n for s in native.histories.history.stats().values())
    assert 0 < missing < N * STEPS


def trainer_of(folder, rows=None, rewards=None, config=None, **options):
    policy = tiny_policy(dtype=torch.float32)
    return Watched(
        model=policy.model,
        reward_funcs=rewards or as_trl_reward("vowels", vowels),
        args=arguments(folder, **(config or {})),
        train_dataset=rows_of() if rows is None else rows,
        processing_class=policy.tokenizer,
        **options,
    )


def test_a_resumed_run_has_the_history_of_one_that_was_not_interrupted(tmp_path):
    config = {"save_strategy": "steps", "save_steps": 1}
    advantage = {"aggregate": "normalize_then_sum"}
    whole = trainer_of(tmp_path, config=config, advantage=advantage)
    whole.train()
    resumed = trainer_of(tmp_path, config=config, advantage=advantage)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.seen == whole.seen[2:]
    assert resumed.history.stats() == whole.history.stats()
    assert list(resumed.histories.parts.all_stats()) == list(whole.histories.parts.all_stats())
    assert {s.n for s in resumed.history.stats().values()} == {N * STEPS // 2}


def test_a_checkpoint_without_a_history_is_refused(tmp_path):
    config = {"save_strategy": "steps", "save_steps": 2}
    trainer_of(tmp_path, config=config).train()
    (tmp_path / "checkpoint-2" / "pgrpo_history.json").unlink()
    with pytest.raises(CheckpointError, match="checkpoint-2 has no usable reward history"):
        trainer_of(tmp_path, config=config).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_a_history_of_another_kind_is_refused(tmp_path):
    config = {"save_strategy": "steps", "save_steps": 2}
    trainer_of(tmp_path, config=config).train()
    other = trainer_of(tmp_path, config=config, history={"kind": {"type": "ema"}})
    with pytest.raises(CheckpointError, match="this run needs one of"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_evaluation_neither_uses_nor_changes_the_history(tmp_path):
    trainer = trainer_of(tmp_path, config={"num_generations_eval": 2, "per_device_eval_batch_size": 8})
    trainer.eval_dataset = rows_of(1).remove_columns("preference_group")
    trainer.train()
    before = trainer.history.stats()
    assert "eval_loss" in trainer.evaluate()
    assert trainer.history.stats() == before


def test_several_updates_from_one_batch_count_its_rewards_once(tmp_path):
    trainer = trainer_of(tmp_path, config={"num_iterations": 2, "max_steps": 4})
    trainer.train()
    stats = trainer.history.stats().values()
    # Two batches of N completions in two groups; the second one is sampled in step 3.
    assert [(s.n, s.first_step, s.last_step) for s in stats] == 2 * [(N, 1, 3)]


def test_the_logged_table_has_these_advantages(tmp_path):
    trainer = trainer_of(tmp_path)
    trainer.train()
    assert list(trainer._logs["advantages"]) == trainer.seen[-1]


def test_preference_groups_may_be_numbers_in_a_column_of_any_name(tmp_path):
    rows = rows_of().map(lambda row: {"reader": ord(row["preference_group"])})
    config = {"remove_unused_columns": True}
    trainer = trainer_of(tmp_path, rows, config=config, preference_group="reader")
    trainer.train()
    assert trainer.history.preference_groups == ["97", "98"]


def test_data_without_the_column_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no column 'reader' \(columns: prompt, preference_group\)"):
        trainer_of(tmp_path, preference_group="reader")


def test_a_prompt_without_a_group_is_refused(tmp_path):
    rows = rows_of().map(lambda row, i: {"preference_group": None if i else "a"}, with_indices=True)
    with pytest.raises(ValueError, match="'prompt-1'"):
        trainer_of(tmp_path, rows).train()


@pytest.mark.parametrize(
    ("name", "value"), [("scale_rewards", "batch"), ("multi_objective_aggregation", "normalize_then_sum")]
)
def test_arguments_that_would_have_no_effect_are_refused(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name} is '{value}'"):
        trainer_of(tmp_path, config={name: value})


def test_random_preference_groups_are_refused(tmp_path):
    with pytest.raises(ValueError, match="preference_groups must be 'named'"):
        trainer_of(tmp_path, history={"preference_groups": "random"})


def test_rewards_of_one_name_have_histories_of_their_own(tmp_path):
    rewards = [as_trl_reward("same", vowels), as_trl_reward("same", small)]
    trainer = trainer_of(tmp_path, rewards=rewards, advantage={"aggregate": "normalize_then_sum"})
    trainer.train()
    assert {part for _, part, _ in trainer.histories.parts.all_stats()} == {"same", "same-2"}


def test_a_sum_counts_what_applies_and_is_missing_where_nothing_does(tmp_path):
    rewards = [as_trl_reward("vowels", vowels), as_trl_reward("small", small)]
    trainer = trainer_of(tmp_path, rewards=rewards, config={"reward_weights": [2.0, 0.0]})
    assert trainer._score([3.0, 5.0]).value == 6.0
    assert trainer._score([3.0, math.nan]).terms == trainer._score([3.0, 5.0]).terms == {"vowels": 3.0}
    # What weighs nothing is recorded and adds nothing.
    assert trainer._score([math.nan, 5.0]).value == 0.0
    assert math.isnan(trainer._score([math.nan, math.nan]).value)
