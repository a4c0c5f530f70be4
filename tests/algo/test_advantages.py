"""Each estimator by hand arithmetic, and every edge case of docs/algorithm.md."""

from __future__ import annotations

import math
import typing

import pytest
import torch

from pgrpo_cli.algo.advantages import compute_advantages
from pgrpo_cli.algo.estimators import PRESETS, Estimator, resolve_estimator
from pgrpo_cli.algo.history import RewardHistory
from pgrpo_cli.errors import RecipeError, RewardError
from pgrpo_cli.recipe.training import AdvantageSection
from tests.support.history import contents

nan = math.nan

# Three prompts with G = 4. Prompt 0 and 2 belong to a, prompt 1 to b.
#   prompt 0:  1  2  3  6   mean  3, squares 4 + 1 + 0 + 9 = 14
#   prompt 1: 10 10 14 14   mean 12, squares 4 * 4         = 16
#   prompt 2:  5  5  7  7   mean  6, squares 4 * 1         =  4
# a: mean 36 / 8 = 4.5, squares 14 + 4 + 4 (1.5² + 1.5²) = 36, variance 36 / 7
# b: mean 12, variance 16 / 3
REWARDS = [1, 2, 3, 6, 10, 10, 14, 14, 5, 5, 7, 7]
GROUPS = ["a"] * 4 + ["b"] * 4 + ["a"] * 4
MU = [4.5] * 4 + [12.0] * 4 + [4.5] * 4
SIGMA = [math.sqrt(36 / 7)] * 4 + [math.sqrt(16 / 3)] * 4 + [math.sqrt(36 / 7)] * 4
PROMPT_MEAN = [3.0] * 4 + [12.0] * 4 + [6.0] * 4
PROMPT_STD = [math.sqrt(14 / 3)] * 4 + [math.sqrt(16 / 3)] * 4 + [math.sqrt(4 / 3)] * 4
# The three others: 11/3 10/3 9/3 6/3 | 38/3 38/3 34/3 34/3 | 19/3 19/3 17/3 17/3.
OTHERS_MEAN = [x / 3 for x in (11, 10, 9, 6, 38, 38, 34, 34, 19, 19, 17, 17)]
# a: s² = 18 / (8 - 2) = 3, τ² = (18 - 3) / (8 - 32 / 8) = 3.75, w = 3.75 / (3.75 + 3 / 4) = 5/6:
# 4.5 - 1.5 * 5/6 = 3.25 and 4.5 + 1.5 * 5/6 = 5.75.  b: one prompt, so τ² = 0 and w = 0.
SHRUNKEN = [3.25] * 4 + [12.0] * 4 + [5.75] * 4
# All twelve: mean 7, squares 36 + 8 * 2.5² + 16 + 4 * 5² = 202.
BATCH_STD = [math.sqrt(202 / 11)] * 12
# s² = 3 for a, as above, and 16 / (4 - 1) for b.
WITHIN = [math.sqrt(3)] * 4 + [math.sqrt(16 / 3)] * 4 + [math.sqrt(3)] * 4
ONES = [1.0] * 12

BASELINES = {"history": MU, "prompt": PROMPT_MEAN, "leave_one_out": OTHERS_MEAN, "shrinkage": SHRUNKEN}
SCALES = {"history": SIGMA, "within": WITHIN, "prompt": PROMPT_STD, "batch": BATCH_STD, "none": ONES}


def history_of(rewards, groups, num_generations) -> RewardHistory:
    history = RewardHistory()
    history.update(rewards, groups, num_generations=num_generations, step=1)
    return history


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("baseline", BASELINES)
def test_every_baseline_with_every_scale_by_hand(baseline, scale):
    history = history_of(REWARDS, GROUPS, 4)
    estimator = Estimator(baseline, scale, epsilon=0.5)
    found = compute_advantages(REWARDS, GROUPS, num_generations=4, history=history, estimator=estimator)
    assert found.baseline_N.tolist() == pytest.approx(BASELINES[baseline], rel=1e-14)
    assert found.scale_N.tolist() == pytest.approx(SCALES[scale], rel=1e-14)
    epsilon = 0 if scale == "none" else 0.5
    expected = [
        (r - b) / (s + epsilon) for r, b, s in zip(REWARDS, BASELINES[baseline], SCALES[scale], strict=True)
    ]
    assert found.advantages_N.tolist() == pytest.approx(expected, rel=1e-6)
    assert found.advantages_N.dtype == torch.float32
    assert found.valid_N.all()


def test_advantages_are_clipped_by_hand():
    # pgrpo with epsilon 0: a has 4.5 and sqrt(36 / 7) = 2.268, b has 12 and sqrt(16 / 3) = 2.309.
    # a: -1.543 -1.102 -0.661 0.661 | b: -0.866 -0.866 0.866 0.866 | a: 0.220 0.220 1.102 1.102
    history, estimator = history_of(REWARDS, GROUPS, 4), Estimator("history", "history", 0)
    common = {"num_generations": 4, "history": history, "estimator": estimator}
    free = compute_advantages(REWARDS, GROUPS, **common)
    found = compute_advantages(REWARDS, GROUPS, clip=1.0, **common)
    assert found.advantages_N.tolist()[:2] == [-1, -1]
    assert found.advantages_N.tolist()[-2:] == [1, 1]
    assert torch.equal(found.advantages_N[2:10], free.advantages_N[2:10])
    assert found.clipped_N.nonzero().flatten().tolist() == [0, 1, 10, 11]
    assert not free.clipped_N.any()
    # An advantage of exactly the clip is not changed.
    bound = -free.advantages_N[2].double().item()
    assert not compute_advantages(REWARDS, GROUPS, clip=bound * 1.000001, **common).clipped_N[2]


def test_a_missing_reward_is_not_clipped():
    found = compute_advantages(
        [nan, 1.0, 0.0, 9.0], ["a"] * 4, num_generations=4, estimator="dr_grpo", clip=2.0
    )
    # Mean 10/3: -7/3, -10/3, 17/3.
    assert found.advantages_N.tolist() == [0, -2, -2, 2]
    assert found.clipped_N.tolist() == [False, True, True, True]


def test_presets_by_hand():
    # The first reward, 1, of prompt 0, with epsilon 1e-4.
    expected = {
        "pgrpo": (1 - 4.5) / (math.sqrt(36 / 7) + 1e-4),
        "grpo": (1 - 3) / (math.sqrt(14 / 3) + 1e-4),
        "dr_grpo": 1 - 3,
        "rloo": 1 - 11 / 3,
        "pgrpo_centered": (1 - 3) / (math.sqrt(36 / 7) + 1e-4),
        "pgrpo_shrinkage": (1 - 3.25) / (math.sqrt(36 / 7) + 1e-4),
        "pgrpo_adaptive": (1 - 3.25) / (math.sqrt(3) + 1e-4),
    }
    assert set(expected) == set(PRESETS)
    history = history_of(REWARDS, GROUPS, 4)
    for name, value in expected.items():
        found = compute_advantages(REWARDS, GROUPS, num_generations=4, history=history, estimator=name)
        assert found.advantages_N[0].item() == pytest.approx(value, rel=1e-6), name


def test_the_history_is_read_and_not_changed():
    history = history_of(REWARDS, GROUPS, 4)
    before = contents(history)
    compute_advantages([1, 2], ["a", "a"], num_generations=2, history=history, estimator="pgrpo")
    assert contents(history) == before


def test_update_before_makes_the_first_step_a_group_wide_grpo():
    """A preference group's first batch, normalised by itself: GRPO with all of it as one generation group."""
    history = history_of(REWARDS, GROUPS, 4)
    by_history = compute_advantages(REWARDS, GROUPS, num_generations=4, history=history)
    a = [r for r, g in zip(REWARDS, GROUPS, strict=True) if g == "a"]
    group_wide = compute_advantages(a, ["a"] * 8, num_generations=8, estimator="grpo")
    of_a = torch.tensor([g == "a" for g in GROUPS])
    assert torch.equal(by_history.advantages_N[of_a], group_wide.advantages_N)


def test_update_after_uses_strictly_past_rewards():
    history = history_of([0, 4], ["a", "a"], 2)  # mean 2, std sqrt(8)
    found = compute_advantages([10, 10], ["a", "a"], num_generations=2, history=history, estimator="pgrpo")
    assert found.advantages_N.tolist() == pytest.approx([8 / (math.sqrt(8) + 1e-4)] * 2)


@pytest.mark.parametrize("estimator", ["pgrpo", "pgrpo_shrinkage", "pgrpo_adaptive"])
def test_below_min_count_the_prompt_stands_in_for_the_history(estimator):
    history = history_of([0, 4], ["a", "a"], 2)
    rewards, groups = [5, 7, 5, 7], ["a", "a", "new", "new"]
    grpo = compute_advantages(rewards, groups, num_generations=2, estimator="grpo")
    for min_count in (3, 16):
        found = compute_advantages(
            rewards, groups, num_generations=2, history=history, estimator=estimator, min_count=min_count
        )
        assert torch.equal(found.advantages_N, grpo.advantages_N)


@pytest.mark.parametrize("min_count", [0, 2])
def test_a_group_without_history_falls_back_whatever_min_count_is(min_count):
    history = history_of([0, 4], ["a", "a"], 2)  # two rewards are enough for min_count 2
    rewards, groups = [5, 7, 5, 7], ["a", "a", "new", "new"]
    found = compute_advantages(rewards, groups, num_generations=2, history=history, min_count=min_count)
    assert found.baseline_N.tolist() == [2, 2, 6, 6]
    assert found.scale_N.tolist() == pytest.approx([math.sqrt(8)] * 2 + [math.sqrt(2)] * 2)


ALL_PAIRS = [Estimator(b, s, epsilon=0.0) for b in BASELINES for s in SCALES]
each_estimator = pytest.mark.parametrize("estimator", ALL_PAIRS, ids=lambda e: f"{e.baseline}-{e.scale}")


@each_estimator
def test_nan_rewards_get_zero_and_change_nothing_for_the_others(estimator):
    """A prompt with a fifth reward NaN equals one of four; a prompt of NaN rewards only is without signal."""
    rewards = [1, 2, nan, 3, 6, nan, nan, nan, nan, nan, 5, 5, 7, nan, 7]
    groups = ["a"] * 5 + ["b"] * 5 + ["a"] * 5
    kept = [r for r in rewards if not math.isnan(r)]
    with_nan = compute_advantages(
        rewards, groups, num_generations=5, history=history_of(rewards, groups, 5), estimator=estimator
    )
    without = compute_advantages(
        kept, ["a"] * 8, num_generations=4, history=history_of(kept, ["a"] * 8, 4), estimator=estimator
    )
    valid = torch.tensor([not math.isnan(r) for r in rewards])
    assert torch.equal(with_nan.valid_N, valid)
    assert with_nan.advantages_N[~valid].tolist() == [0] * 7
    assert torch.equal(with_nan.advantages_N[valid], without.advantages_N)


@each_estimator
def test_equal_rewards_give_zero_even_without_epsilon(estimator):
    # 0.1 seven times: the sum is not 0.7, yet mean and spread must come out exact.
    rewards, groups = [0.1] * 14, ["a"] * 14
    found = compute_advantages(
        rewards, groups, num_generations=7, history=history_of(rewards, groups, 7), estimator=estimator
    )
    assert found.advantages_N.tolist() == [0] * 14


@pytest.mark.parametrize("epsilon", [0.0, 1e-4])
def test_a_history_without_spread_gives_zero_to_any_reward(epsilon):
    """Without the rule the first success after failures would get 1 / 1e-4."""
    history = history_of([0.0] * 4, ["a"] * 4, 4)
    estimator = Estimator("history", "history", epsilon)
    found = compute_advantages([1.0, 0.0], ["a"] * 2, num_generations=2, history=history, estimator=estimator)
    assert found.advantages_N.tolist() == [0, 0]


@pytest.mark.parametrize("preset", [name for name in PRESETS if resolve_estimator(name).centered])
def test_one_valid_reward_in_a_generation_group_gives_zero(preset):
    history = history_of([0.0, 3.0], ["a", "a"], 2)
    for rewards in ([5.0, nan, nan], [5.0]):
        found = compute_advantages(
            rewards, ["a"] * len(rewards), num_generations=len(rewards), history=history, estimator=preset
        )
        assert found.advantages_N.tolist() == [0] * len(rewards)


def test_one_valid_reward_still_counts_against_the_history():
    # μ = 1.5, σ = sqrt(4.5): the reward 5 of a prompt with one reward is compared with its preference group.
    history = history_of([0.0, 3.0], ["a", "a"], 2)
    found = compute_advantages([5.0, nan], ["a", "a"], num_generations=2, history=history, estimator="pgrpo")
    assert found.advantages_N.tolist() == pytest.approx([3.5 / (math.sqrt(4.5) + 1e-4), 0])


@pytest.mark.parametrize("G", [2, 5])
def test_shrinkage_is_the_best_prediction_from_the_others_up_to_a_factor(G):
    """R - b = (1 - w/G) (R - μ - c (mean of the others - μ)), c = τ² / (τ² + s²/(G - 1))."""
    rewards = [0.0, 1.0, 3.0, 7.0, 2.0, 8.0, 9.0, 6.0, 11.0, 5.0][: 2 * G]
    history = history_of(rewards, ["a"] * (2 * G), G)
    (stats,) = history.stats().values()
    tau_sq, s_sq, mu = stats.between_variance, stats.within_variance, stats.mean
    w, c = stats.shrinkage_weight(G), tau_sq / (tau_sq + s_sq / (G - 1))
    assert 0 < w < 1
    found = compute_advantages(
        rewards, ["a"] * (2 * G), num_generations=G, history=history, estimator="pgrpo_shrinkage"
    )
    for i, reward in enumerate(rewards):
        prompt = rewards[i // G * G :][:G]
        others = (sum(prompt) - reward) / (G - 1)
        expected = (1 - w / G) * (reward - mu - c * (others - mu))
        assert reward - found.baseline_N[i].item() == pytest.approx(expected, abs=1e-12)


def test_shrinkage_weighs_a_prompt_by_its_valid_rewards():
    # s² = 3, τ² = 3.75 as above. Two valid rewards: w = 3.75 / (3.75 + 3/2) = 5/7, 4.5 + 5/7 (9 - 4.5).
    history = history_of(REWARDS, GROUPS, 4)
    found = compute_advantages(
        [8, nan, 10, nan], ["a"] * 4, num_generations=4, history=history, estimator="pgrpo_shrinkage"
    )
    assert found.baseline_N[[0, 2]].tolist() == pytest.approx([4.5 + 5 / 7 * 4.5] * 2)


def test_the_spread_inside_prompts_knows_nothing_of_how_prompts_differ():
    """Prompts moved apart by 1000: σ_p follows, s_p does not, and the advantages are those of w towards 1."""
    rewards = [0, 2, 1000, 1002, 2000, 2002]
    history = history_of(rewards, ["a"] * 6, 2)
    found = compute_advantages(
        rewards, ["a"] * 6, num_generations=2, history=history, estimator="pgrpo_adaptive"
    )
    # s² = 3 · 2 / 3. τ² = (2 · 2 · 10⁶ - 2 · 2) / (6 - 12 / 6) is near 10⁶: w = 1 - 10⁻⁶.
    assert found.scale_N.tolist() == pytest.approx([math.sqrt(2)] * 6)
    assert found.advantages_N.tolist() == pytest.approx([-1 / math.sqrt(2), 1 / math.sqrt(2)] * 3, rel=2e-3)


def test_a_history_of_single_rewards_has_no_spread_inside_prompts():
    history = history_of([0.0, 4.0], ["a", "a"], 1)
    found = compute_advantages(
        [1.0, 3.0], ["a", "a"], num_generations=2, history=history, estimator="pgrpo_adaptive"
    )
    assert found.scale_N.tolist() == [0, 0]
    assert found.advantages_N.tolist() == [0, 0]


def test_where_there_is_no_baseline_it_is_nan():
    grpo = compute_advantages([nan, nan, 1, 2], ["a"] * 4, num_generations=2, estimator="grpo")
    assert grpo.baseline_N[:2].isnan().all()
    assert grpo.baseline_N[2:].tolist() == [1.5, 1.5]
    rloo = compute_advantages([3, nan], ["a"] * 2, num_generations=2, estimator="rloo")
    assert rloo.baseline_N[0].isnan()
    assert rloo.advantages_N.tolist() == [0, 0]


def test_rewards_keep_float64_digits():
    """A difference of 1e-3 at 1e6 is below float32's resolution of 0.06 there."""
    found = compute_advantages([1e6, 1e6 + 1e-3], ["a"] * 2, num_generations=2, estimator="dr_grpo")
    assert found.advantages_N.tolist() == pytest.approx([-5e-4, 5e-4], rel=1e-6)


def test_an_empty_batch_has_no_advantages():
    for name in PRESETS:
        found = compute_advantages([], [], num_generations=4, history=RewardHistory(), estimator=name)
        assert found.advantages_N.shape == (0,)


def test_refusals():
    with pytest.raises(RewardError, match=r"'a', has reward -inf"):
        compute_advantages([-math.inf, 1], ["a", "a"], num_generations=2, estimator="grpo")
    with pytest.raises(ValueError, match="needs a reward history"):
        compute_advantages([1, 2], ["a", "a"], num_generations=2, estimator="pgrpo_centered")
    with pytest.raises(ValueError, match="different preference groups"):
        compute_advantages([1, 2], ["a", "b"], num_generations=2, estimator="grpo")
    with pytest.raises(RecipeError, match=r"'pgrpo_shrinkge'.*\n.*Did you mean 'pgrpo_shrinkage'"):
        resolve_estimator("pgrpo_shrinkge")
    with pytest.raises(RecipeError, match="its own baseline"):
        resolve_estimator("grpo", scale="none")
    with pytest.raises(RecipeError, match="Set both"):
        resolve_estimator("custom", baseline="prompt")
    with pytest.raises(RecipeError, match=r"advantage\.scale is 'sum'"):
        Estimator("prompt", "sum")
    with pytest.raises(RecipeError, match="0 or more"):
        Estimator("prompt", "prompt", -1.0)


def test_custom_takes_its_baseline_and_scale():
    assert resolve_estimator("custom", "prompt", "batch", 0.1) == Estimator("prompt", "batch", 0.1)
    assert resolve_estimator("rloo") == Estimator("leave_one_out", "none", 1e-4)


def test_the_recipe_offers_every_estimator_baseline_and_scale():
    def words(field: str) -> set[str]:
        annotation = AdvantageSection.model_fields[field].annotation
        return {w for arg in typing.get_args(annotation) for w in (typing.get_args(arg) or (arg,))}

    assert words("estimator") == {*PRESETS, "custom"}
    assert words("baseline") - {type(None)} == set(BASELINES)
    assert words("scale") - {type(None)} == set(SCALES)
    assert AdvantageSection().epsilon == resolve_estimator("pgrpo").epsilon
