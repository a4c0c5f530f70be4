"""What holds for advantages whatever the rewards are."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pgrpo_cli.algo.advantages import compute_advantages
from pgrpo_cli.algo.estimators import PRESETS, Estimator, resolve_estimator
from pgrpo_cli.algo.history import RewardHistory

G = 3
# Eighths: sums are exact, so that a spread is either zero or far from rounding.
reward = st.integers(-80, 80).map(lambda i: i / 8)
reward_or_nan = st.one_of(reward, reward, reward, st.just(math.nan))


def batch_of(rewards: st.SearchStrategy[float], max_prompts: int = 6) -> st.SearchStrategy:
    """Prompts, each a preference group and G rewards."""
    prompt = st.tuples(st.sampled_from("abc"), st.lists(rewards, min_size=G, max_size=G))
    return st.lists(prompt, min_size=1, max_size=max_prompts)


def flat(batch) -> tuple[list[float], list[str]]:
    return [r for _, rewards in batch for r in rewards], [g for g, _ in batch for _ in range(G)]


def advantages(batch, estimator, past=()) -> Tensor:
    """Advantages [prompts, G] with `update: before` in a history that has seen `past`."""
    history = RewardHistory()
    for step, earlier in enumerate([*past, batch], start=1):
        rewards, groups = flat(earlier)
        history.update(rewards, groups, num_generations=G, step=step)
    rewards, groups = flat(batch)
    found = compute_advantages(rewards, groups, num_generations=G, history=history, estimator=estimator)
    return found.advantages_N.view(-1, G)


def moved(batch, shift=0.0, factor=1.0):
    return [(group, [r * factor + shift for r in rewards]) for group, rewards in batch]


def close(expected: Tensor, tolerance: float = 1e-5) -> object:
    return pytest.approx(expected.flatten().tolist(), rel=tolerance, abs=tolerance)


quick = settings(deadline=None, max_examples=30)
each_preset = pytest.mark.parametrize("preset", PRESETS)


@quick
@given(past=batch_of(reward), rewards=st.lists(reward, min_size=G, max_size=G))
def test_corollary_3_1_ties_pgrpo_to_grpo(past, rewards):
    """A^p = (σ_G / σ_p) A + (μ_G - μ_p) / σ_p at epsilon 0, with σ_G, μ_G of the prompt, A by GRPO."""
    history = RewardHistory()
    past_rewards, past_groups = flat(past)
    history.update(past_rewards, past_groups, num_generations=G, step=1)
    history.update(rewards, ["a"] * G, num_generations=G, step=2)
    assume(len(set(rewards)) > 1)
    mu_p, sigma_p = history.mean("a"), history.std("a")
    mu_g, sigma_g = (f(torch.tensor(rewards, dtype=torch.float64)).item() for f in (torch.mean, torch.std))

    def by(baseline, scale):
        estimator = Estimator(baseline, scale, epsilon=0.0)
        return compute_advantages(rewards, ["a"] * G, num_generations=G, history=history, estimator=estimator)

    grpo = by("prompt", "prompt").advantages_N.double()
    expected = sigma_g / sigma_p * grpo + (mu_g - mu_p) / sigma_p
    assert by("history", "history").advantages_N.tolist() == close(expected)


@each_preset
@quick
@given(batch=batch_of(reward_or_nan), data=st.data())
def test_permuting_a_batch_permutes_its_advantages(preset, batch, data):
    order = data.draw(st.permutations(range(len(batch))))
    inner = data.draw(st.permutations(range(G)))
    permuted = [(batch[p][0], [batch[p][1][i] for i in inner]) for p in order]
    expected = advantages(batch, preset)[order][:, inner]
    assert advantages(permuted, preset).flatten().tolist() == close(expected)


@each_preset
@quick
@given(batch=batch_of(reward_or_nan), past=batch_of(reward_or_nan), shift=st.integers(-1000, 1000))
def test_adding_a_constant_to_all_rewards_changes_nothing(preset, batch, past, shift):
    expected = advantages(batch, preset, [past])
    shifted = advantages(moved(batch, shift), preset, [moved(past, shift)])
    assert shifted.flatten().tolist() == close(expected)


@each_preset
@quick
@given(batch=batch_of(reward_or_nan), past=batch_of(reward_or_nan), factor=st.sampled_from([0.25, 3.0, 1e3]))
def test_scaling_all_rewards_scales_only_what_is_not_normalised(preset, batch, past, factor):
    baseline, scale = PRESETS[preset]
    estimator = Estimator(baseline, scale, epsilon=0.0)
    expected = advantages(batch, estimator, [past]) * (factor if scale == "none" else 1)
    found = advantages(moved(batch, 0, factor), estimator, [moved(past, 0, factor)])
    assert found.flatten().tolist() == close(expected)


@each_preset
@quick
@given(batch=batch_of(reward_or_nan), past=batch_of(reward_or_nan), other=reward_or_nan)
def test_preference_groups_never_influence_each_other(preset, batch, past, other):
    def without_b(some):
        return [(g, [other] * G if g == "b" else rewards) for g, rewards in some]

    not_b = torch.tensor([g != "b" for g, _ in batch])
    found = advantages(without_b(batch), preset, [without_b(past)])
    assert torch.equal(found[not_b], advantages(batch, preset, [past])[not_b])


@each_preset
@quick
@given(batch=batch_of(reward_or_nan, max_prompts=3))
def test_advantages_are_finite_and_zero_where_nothing_was_rewarded(preset, batch):
    found = advantages(batch, preset)
    assert found.isfinite().all()
    rewards, _ = flat(batch)
    assert (found.flatten()[torch.tensor(rewards).isnan()] == 0).all()


@quick
@given(batch=batch_of(reward))
def test_centred_advantages_of_a_generation_group_add_up_to_zero(batch):
    for preset in [name for name in PRESETS if resolve_estimator(name).centered]:
        assert advantages(batch, preset).sum(1).tolist() == pytest.approx([0.0] * len(batch), abs=1e-5)


@quick
@given(batch=batch_of(reward), past=batch_of(reward))
def test_shrinkage_lies_between_the_history_and_the_prompt(batch, past):
    history = RewardHistory()
    for some in (past, batch):
        rewards, groups = flat(some)
        history.update(rewards, groups, num_generations=G, step=1)
    rewards, groups = flat(batch)
    baselines = [
        compute_advantages(
            rewards, groups, num_generations=G, history=history, estimator=Estimator(name, "none")
        ).baseline_N
        for name in ("history", "shrinkage", "prompt")
    ]
    low, high = torch.minimum(baselines[0], baselines[2]), torch.maximum(baselines[0], baselines[2])
    assert (baselines[1] >= low - 1e-9).all()
    assert (baselines[1] <= high + 1e-9).all()
