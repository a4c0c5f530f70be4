"""The small policy of the regimes: exact expectations, gradients, draws, independent replicas."""

from __future__ import annotations

import itertools
from dataclasses import fields, replace

import pytest
import torch

from benchmarks.small_policy import (
    OWN_WEIGHT,
    Draws,
    HistorySettings,
    Policy,
    World,
    drawn,
    held_out_utilities,
    progress,
    rewards,
    train,
)
from pgrpo_cli.algo.estimators import resolve_estimator
from pgrpo_cli.algo.losses import policy_loss

TOKENS, VOCABULARY = 3, 8
SMALL = World(features=4, tokens=TOKENS, vocabulary=VOCABULARY)
QUIET = replace(SMALL, scale_ratio=1.0, difficulty_K=(0.0,) * 4, noise=0.0)
ALL_COMPLETIONS = torch.tensor(list(itertools.product(range(VOCABULARY), repeat=TOKENS)))


def some_policy(world: World) -> Policy:
    """One far from uniform."""
    policy = Policy(world, torch.ones(1))
    with torch.no_grad():
        policy.parameters.normal_(generator=torch.Generator().manual_seed(1))
    return policy


def probabilities(policy: Policy, draws: Draws, step: int) -> torch.Tensor:
    """Of every completion for every prompt of a step, [P, V^T]."""
    logprobs = policy.logprobs(draws.features_S_B_P_F[:, step], draws.groups_S_B_P[:, step])[0]
    return sum(logprobs[:, t, ALL_COMPLETIONS[:, t]] for t in range(TOKENS)).exp()  # type: ignore[union-attr]


def all_rewards(world: World, draws: Draws, step: int) -> torch.Tensor:
    """Of every completion for every prompt of a step, [P, V^T]; `world` has no noise."""
    count = len(ALL_COMPLETIONS)
    noise = draws.noise_S_B_P_G[..., :1].expand(-1, -1, -1, count)
    tokens = ALL_COMPLETIONS.expand(1, world.prompts, -1, -1)
    return rewards(world, replace(draws, noise_S_B_P_G=noise), step, tokens)[0]


def test_tokens_are_drawn_by_the_inverse_distribution_function() -> None:
    # Heights 0.25, 0.5, 1: a uniform number picks the first height above it.
    logprobs = torch.tensor([0.25, 0.25, 0.5]).double().log().view(1, 1, 1, 3)
    uniforms = torch.tensor([0.0, 0.24, 0.25, 0.49, 0.5, 0.999]).double().view(1, 1, 6, 1)
    assert drawn(logprobs, uniforms).flatten().tolist() == [0, 0, 1, 1, 2, 2]


def test_progress_is_the_expected_reward_over_all_completions() -> None:
    """The held-out prompts as a step's prompts: all 512 completions, each by its probability."""
    world = replace(QUIET, shares_K=(1.0,), difficulty_K=(0.0,), prompts=24, range_spread=0.7)
    draws = Draws.of(world, [5], steps=1)
    draws = replace(draws, features_S_B_P_F=draws.held_out_S_K_E_F, ranges_S_B_P=draws.ranges_S_K_E)
    policy = some_policy(world)
    worth = all_rewards(world, draws, 0)
    expected = (probabilities(policy, draws, 0) * worth).sum(1).mean()
    uniform, best = worth.mean(), worth.amax(1).mean()
    found = progress(policy, draws, held_out_utilities(draws))
    assert found.item() == pytest.approx(((expected - uniform) / (best - uniform)).item(), rel=1e-12)


def test_progress_runs_from_the_uniform_policy_to_the_best() -> None:
    draws = Draws.of(QUIET, [3], steps=1)
    policy = Policy(QUIET, torch.ones(1))
    utilities = held_out_utilities(draws)
    assert progress(policy, draws, utilities).abs().max() < 1e-12
    with torch.no_grad():
        # The tastes themselves, sharpened: logits are 200 times what each token is worth.
        policy.parameters[:, :4] = 200 * draws.tastes_S_K_F_T_V / OWN_WEIGHT
    assert progress(policy, draws, utilities).min() > 0.99


def test_the_loss_over_all_completions_has_the_gradient_of_the_expected_reward() -> None:
    """`policy_loss` with each completion's advantage times its probability, against finite differences."""
    draws = Draws.of(QUIET, [7], steps=1)
    policy, worth = some_policy(QUIET), all_rewards(QUIET, draws, 0)

    def expected_reward() -> torch.Tensor:
        return (probabilities(policy, draws, 0) * worth).sum(1).mean()

    logprobs = policy.logprobs(draws.features_S_B_P_F[:, 0], draws.groups_S_B_P[:, 0])[0]
    count = len(ALL_COMPLETIONS)
    chosen = torch.stack([logprobs[:, t, ALL_COMPLETIONS[:, t]] for t in range(TOKENS)], -1)
    weighted = probabilities(policy, draws, 0).detach() * (worth - 0.3) * count
    rows = chosen.reshape(-1, TOKENS)
    loss = policy_loss(
        rows, rows.detach(), weighted.flatten(), torch.ones_like(rows, dtype=torch.bool), clip_low=0.2,
        clip_high=0.2, beta=0.0, aggregation="sequence_mean", num_completions=len(rows),
        num_tokens=rows.numel(), max_completion_tokens=TOKENS,
    )  # fmt: skip
    loss.loss.backward()
    gradient = -TOKENS * policy.parameters.grad[0]  # the loss is a mean over tokens
    places = [(4, 0, 0, 0), (4, 3, 2, 7), *((int(k), 1, 1, 3) for k in draws.groups_S_B_P[0, 0, :3])]
    for place in places:
        found = []
        for change in (1e-5, -1e-5):
            with torch.no_grad():
                policy.parameters[(0, *place)] += change
                found.append(expected_reward().item())
                policy.parameters[(0, *place)] -= change
        assert (found[0] - found[1]) / 2e-5 == pytest.approx(gradient[place].item(), rel=1e-5, abs=1e-9)
    assert gradient.abs().max() > 1e-3


def test_a_step_moves_the_own_weights_by_half_of_what_it_moves_the_shared_ones() -> None:
    # Adam's first step is 1 a parameter, whatever the gradient: a logit moves by rate · (1 + OWN_WEIGHT).
    draws = Draws.of(QUIET, [0], steps=1)
    policy = Policy(QUIET, torch.tensor([0.1]))
    features = torch.zeros(1, 1, QUIET.features, dtype=torch.float64)
    features[..., 0] = 1.0
    group = draws.groups_S_B_P[:, 0, :1]
    policy.step(-policy.logprobs(features, group)[0, 0, :, 0].sum())
    after = policy.logprobs(features, group)[0, 0, 0].detach()
    # Up for token 0, down for the others: 0.1 · 1.5 each.
    assert (after[0] - after[1]).item() == pytest.approx(0.3, rel=1e-5)


def test_rewards_are_made_as_described() -> None:
    world = replace(
        SMALL, shares_K=(0.0, 1.0), scale_ratio=9.0, difficulty_K=(0.0, 2.0), noise=3.0, prompts=1
    )
    draws = Draws.of(world, [11], steps=1)
    tokens = torch.tensor([[[[1, 2, 3]] * world.num_generations]])
    x, taste = draws.features_S_B_P_F[0, 0, 0], draws.tastes_S_K_F_T_V[0, 1]
    utility = sum(float(x @ taste[:, t, t + 1]) for t in range(3)) / 3**0.5
    expected = draws.ranges_S_B_P[0, 0, 0] * utility + 2 * draws.offsets_S_B_P[0, 0, 0]
    expected = draws.scales_S_K[0, 1] * (expected + 3 * draws.noise_S_B_P_G[0, 0, 0])
    torch.testing.assert_close(rewards(world, draws, 0, tokens)[0, 0], expected)
    assert sorted(draws.scales_S_K[0].tolist()) == [1.0, 9.0]
    assert draws.ranges_S_B_P.eq(1).all()


def test_ranges_differ_as_told_with_mean_square_1() -> None:
    # Logarithms of standard deviation 0.5; the mean square of exp(z / 2 - 1 / 4) is 1.
    world = replace(SMALL, prompts=20_000, num_generations=1, range_spread=0.5)
    ranges = Draws.of(world, [0], steps=1).ranges_S_B_P
    assert ranges.log().std().item() == pytest.approx(0.5, abs=0.01)
    assert ranges.square().mean().item() == pytest.approx(1.0, abs=0.05)


def test_units_are_those_of_the_untrained_policy() -> None:
    """Over many prompts the standard deviation inside a prompt is about 1; the offsets' is the difficulty."""
    world = replace(QUIET, prompts=400, difficulty_K=(2.0,) * 4)
    draws = Draws.of(world, [2], steps=1)
    worth = all_rewards(world, draws, 0)
    assert worth.var(1).mean().sqrt().item() == pytest.approx(1.0, abs=0.15)
    assert worth.mean(1).std().item() == pytest.approx(2.0, abs=0.3)
    shares = draws.groups_S_B_P.flatten().bincount(minlength=4) / 400
    assert shares.tolist() == pytest.approx(world.shares_K, abs=0.08)


@pytest.mark.parametrize("preset", ["pgrpo", "grpo", "pgrpo_shrinkage"])
def test_a_replica_depends_on_nothing_beside_it(preset: str) -> None:
    world = replace(SMALL, history=HistorySettings(update="after"))
    estimator = resolve_estimator(preset)
    together = train(world, Draws.of(world, [4, 9], 6), estimator, torch.tensor([0.1, 0.3]), evaluate_every=3)
    alone = train(world, Draws.of(world, [9], 6), estimator, torch.tensor([0.3]), evaluate_every=3)
    assert together.curves_S_C_K.shape == (2, 3, 4)
    torch.testing.assert_close(together.curves_S_C_K[1], alone.curves_S_C_K[0], rtol=1e-6, atol=1e-9)
    assert [stats.n for stats in together.stats_S[1]] == [stats.n for stats in alone.stats_S[0]]
    assert sum(stats.n for stats in alone.stats_S[0]) == 6 * 8 * 4


def test_repeated_draws_come_one_after_the_other() -> None:
    draws = Draws.of(SMALL, [0, 1], 1)
    twice = draws.repeated(2)
    for f in fields(Draws):
        values = getattr(twice, f.name)
        assert torch.equal(values[:2], values[2:])
        assert torch.equal(values[:2], getattr(draws, f.name))


@pytest.mark.parametrize("preset", ["pgrpo", "grpo", "pgrpo_centered"])
def test_it_learns(preset: str) -> None:
    trained = train(SMALL, Draws.of(SMALL, range(4), 40), resolve_estimator(preset), torch.full((4,), 0.16))
    macro = trained.curves_S_C_K.mean((0, 2))
    assert macro[0].abs() < 1e-9
    assert macro[-1] > 0.4


def test_random_groups_mix_the_rewards_of_all() -> None:
    """Histories of preference groups by chance have about the same spread; the true ones differ 8 times."""
    world = replace(QUIET, scale_ratio=8.0, prompts=64)
    draws, rate = Draws.of(world, [1], 3), torch.tensor([0.1])

    def spreads(random_groups: bool) -> list[float]:
        trained = train(world, draws, resolve_estimator("pgrpo"), rate, random_groups=random_groups)
        return [stats.std for stats in trained.stats_S[0]]

    true, mixed = spreads(False), spreads(True)
    assert max(true) / min(true) > 5
    assert max(mixed) / min(mixed) < 3
