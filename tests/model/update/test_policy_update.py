import copy
from dataclasses import replace

import pytest
import torch

from pgrpo_cli.algo.advantages import compute_advantages
from pgrpo_cli.errors import TrainingError
from pgrpo_cli.model.policy import Paths
from pgrpo_cli.model.update.optimizer import build_optimizer
from pgrpo_cli.model.update.policy_update import policy_update
from pgrpo_cli.recipe.schema import Recipe
from tests.support.policies import VOCABULARY, made_up_rollouts, randomize_adapter, tiny_policy
from tests.support.recipes import changed

FAST = Paths()
REWARDS = (0.1, 0.9, 0.4, 1.5, 0.2, 0.8)


def _recipe(**values):
    return Recipe.model_validate(changed(**{"train__learning_rate": 1.0, **values}))


def _update(policy, recipe, rewards_N=REWARDS, **place):
    """One update on made-up rollouts; returns the result and the adapter's change."""
    rollouts = made_up_rollouts((11, 4, 9), (3, 7, 5, 1, 6, 2))
    generator = torch.Generator().manual_seed(2)
    noise_N_T = torch.rand(rollouts.sampling_logprobs_N_T.shape, generator=generator)
    rollouts = replace(rollouts, sampling_logprobs_N_T=-torch.tensor(VOCABULARY).log() + 0.2 * noise_N_T)
    advantages = compute_advantages(rewards_N, list("aabbaa"), num_generations=2, estimator="dr_grpo")
    before = {name: p.detach().clone() for name, p in policy.trainable.items()}
    optimizer = torch.optim.SGD(policy.trainable.values(), lr=1.0)
    result = policy_update(policy, optimizer, rollouts, advantages, recipe, step=1, **place)
    change = torch.cat([(p.detach() - before[name]).flatten() for name, p in policy.trainable.items()])
    return result, change


@pytest.mark.parametrize("aggregation", ["sequence_mean", "token_mean", "constant"])
@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_an_update_does_not_depend_on_the_cut_into_micro_batches(aggregation, beta):
    def updated(budget, paths=FAST):
        recipe = _recipe(
            train__tokens_per_micro_batch=budget,
            train__max_grad_norm=1e9,
            loss__aggregation=aggregation,
            loss__beta=beta,
        )
        return _update(replace(tiny_policy(), paths=paths), recipe)

    whole, whole_change = updated(10_000)
    assert whole_change.norm() > 1e-6
    for budget, paths in ((1, FAST), (30, FAST), (40, Paths(packed=False))):
        part, part_change = updated(budget, paths)
        assert part.loss == pytest.approx(whole.loss, abs=1e-9)
        assert part.metrics == pytest.approx(whole.metrics, abs=1e-9)
        torch.testing.assert_close(part_change, whole_change, atol=1e-9, rtol=0)


def test_the_reference_is_the_base_model():
    policy = tiny_policy()
    randomize_adapter(policy, scale=0.0)
    recipe = _recipe(loss__beta=0.5)
    assert _update(policy, recipe)[0].metrics["kl"] == pytest.approx(0.0, abs=1e-12)
    assert _update(tiny_policy(), recipe)[0].metrics["kl"] > 1e-4


def test_the_gradient_is_clipped_to_its_norm():
    free, free_change = _update(tiny_policy(), _recipe(train__max_grad_norm=1e9))
    clipped, change = _update(tiny_policy(), _recipe(train__max_grad_norm=0.01))
    assert clipped.grad_norm == pytest.approx(free.grad_norm) == pytest.approx(free_change.norm().item())
    assert change.norm() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(("estimator", "taken"), [("pgrpo", "constant"), ("grpo", "sequence_mean")])
def test_an_aggregation_that_is_left_open_is_that_of_the_estimator(estimator, taken):
    found, change = _update(tiny_policy(), _recipe(advantage__estimator=estimator))
    expected, expected_change = _update(tiny_policy(), _recipe(loss__aggregation=taken))
    other, _ = _update(tiny_policy(), _recipe(loss__aggregation="token_mean"))
    assert found.loss == expected.loss != other.loss
    assert torch.equal(change, expected_change)


def test_completions_without_a_reward_change_nothing():
    missing = (0.1, 0.9, float("nan"), float("nan"), 0.2, 0.8)
    # With a constant divisor, rewards that are missing and rewards that are alike (advantage 0) are the same.
    recipe = _recipe(loss__aggregation="constant")
    _, change = _update(tiny_policy(), recipe, missing)
    _, expected = _update(tiny_policy(), recipe, (0.1, 0.9, 0.5, 0.5, 0.2, 0.8))
    assert change.norm() > 1e-6
    torch.testing.assert_close(change, expected, atol=1e-12, rtol=0)
    nothing, no_change = _update(tiny_policy(), _recipe(), (float("nan"),) * 6)
    assert nothing.loss == 0.0
    assert no_change.abs().max() == 0.0


def test_a_gradient_that_is_not_finite_stops_before_the_weights_change():
    policy = tiny_policy()
    before = copy.deepcopy({n: p.detach().clone() for n, p in policy.trainable.items()})
    with torch.no_grad():
        policy.decoder.norm.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="step 1: the gradient is not finite"):
        _update_keeping_norms(policy)
    assert all(torch.equal(before[n], p) for n, p in policy.trainable.items())


def _update_keeping_norms(policy):
    del policy.decoder.norm.forward
    return _update(policy, _recipe())


def test_the_learning_rate_by_hand():
    train = _recipe(train__steps=6, train__warmup_steps=2).train
    # Warm-up 1/2, 2/2; then half a cosine over 4 steps: progress 0, 1/4, 2/4, 3/4.
    expected = [0.5, 1.0, 1.0, 0.5 + 0.5 * 0.5**0.5, 0.5, 0.5 - 0.5 * 0.5**0.5]
    assert [train.learning_rate_at(step) for step in range(1, 7)] == pytest.approx(expected)
    constant = train.model_copy(update={"schedule": "constant"})
    assert [constant.learning_rate_at(step) for step in range(1, 7)] == [0.5, 1, 1, 1, 1, 1]


def test_adamw_takes_the_settings_of_the_recipe():
    recipe = _recipe(
        train__optimizer={"type": "adamw", "beta1": 0.8, "weight_decay": 0.1}, train__learning_rate=0.5
    )
    settings = build_optimizer(tiny_policy(), recipe.train).param_groups[0]
    assert (settings["lr"], settings["betas"], settings["weight_decay"]) == (0.5, (0.8, 0.999), 0.1)


def test_every_update_of_a_rollout_drops_inputs_of_its_own():
    def change(**place):
        return _update(tiny_policy(dropout=0.5), _recipe(train__max_grad_norm=1e9), **place)[1]

    assert torch.equal(change(), change(update=0))
    assert torch.equal(change(update=1), change(update=1))
    assert (change(update=1) - change(update=0)).norm() > 0.1 * change().norm()
    assert (change(update=2) - change(update=1)).norm() > 0.1 * change().norm()
