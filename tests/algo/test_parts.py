"""Parts normalised each by a history of its own, then weighted and summed: by hand, and what holds always."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pgrpo_cli.algo.advantages import compute_advantages
from pgrpo_cli.algo.estimators import PRESETS, Estimator
from pgrpo_cli.algo.history import RewardHistory
from pgrpo_cli.algo.parts import PartHistory, compute_part_advantages
from pgrpo_cli.errors import RewardError
from tests.support.history import comparable

nan = math.nan
GRPO = Estimator("prompt", "prompt", epsilon=0)
PGRPO = Estimator("history", "history", epsilon=0)

# Two prompts of preference group p with G = 2.
#   x: 1 3 5 7    mean 4, squares 9 + 1 + 1 + 9 = 20, variance 20 / 3
#   y: 0 10 0 10  mean 5, squares 4 * 25 = 100,       variance 100 / 3
XY = [{"x": 1.0, "y": 0.0}, {"x": 3.0, "y": 10.0}, {"x": 5.0, "y": 0.0}, {"x": 7.0, "y": 10.0}]
SX, SY = math.sqrt(20 / 3), math.sqrt(100 / 3)


def parts_of(*columns: Sequence[float], labels: str = "xy") -> list[dict[str, float]]:
    """A mapping a completion from a list a part."""
    return [dict(zip(labels, row, strict=True)) for row in zip(*columns, strict=True)]


def advantages(
    parts: Sequence[Mapping[str, float]],
    groups: Sequence[str],
    weights: Mapping[str, float],
    *,
    G: int = 2,
    history: RewardHistory | None = None,
    **options: Any,
) -> Tensor:
    """Advantages with `update: before`."""
    known = PartHistory(weights, history or RewardHistory())
    known.update(parts, groups, num_generations=G, step=1)
    found = compute_part_advantages(parts, groups, num_generations=G, history=known, **options)
    return found.advantages_N


def test_by_hand() -> None:
    found = advantages(XY, ["p"] * 4, {"x": 2, "y": -1}, estimator=Estimator("history", "history", 0.5))
    expected = [
        2 * (x - 4) / (SX + 0.5) - (y - 5) / (SY + 0.5) for x, y in ((1, 0), (3, 10), (5, 0), (7, 10))
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


def test_the_sum_is_clipped_and_not_its_parts() -> None:
    # x: (1 - 4) / SX = -1.162, -0.387, 0.387, 1.162; y: -0.866, 0.866, -0.866, 0.866, with weights 2 and -1:
    # -1.458, -1.641, 1.641, 1.458. Parts clipped to 1.5 would give the same; the sum does not.
    free = advantages(XY, ["p"] * 4, {"x": 2, "y": -1}, estimator=PGRPO)
    found = advantages(XY, ["p"] * 4, {"x": 2, "y": -1}, estimator=PGRPO, clip=1.5)
    assert free.tolist() == pytest.approx([-1.458, -1.641, 1.641, 1.458], abs=1e-3)
    assert found.tolist() == pytest.approx([-1.458, -1.5, 1.5, 1.458], abs=1e-3)


def test_a_part_is_normalised_by_the_history_of_its_own_preference_group() -> None:
    # q has seen 1 and 3 of x: mean 2, spread sqrt 2; p has 5 and 7: mean 6, spread sqrt 2.
    parts = [{"x": value} for value in (1.0, 3.0, 5.0, 7.0)]
    found = advantages(parts, ["q", "q", "p", "p"], {"x": 1}, estimator=PGRPO)
    assert found.tolist() == pytest.approx([-1 / math.sqrt(2), 1 / math.sqrt(2)] * 2, rel=1e-6)


# Two binary rewards and two rollouts, as in the figure 2 of the paper: (0, 1) and (0, 2) are alike to GRPO.
#   prompt 0: (0, 0) and (0, 1): the second part differs
#   prompt 1: (0, 0) and (1, 1): both parts differ
# Of two rewards 0 and 1 the mean is 1/2 and the spread 1/sqrt 2: advantages -+ 1/sqrt 2 (equation 4).
BINARY = parts_of([0, 0, 0, 1], [0, 1, 0, 1])


def test_gdpo_tells_apart_what_grpo_does_not() -> None:
    groups = ["p"] * 4
    total = [row["x"] + row["y"] for row in BINARY]
    summed = compute_advantages(total, groups, num_generations=2, estimator=GRPO).advantages_N
    assert summed.tolist() == pytest.approx([-math.sqrt(1 / 2), math.sqrt(1 / 2)] * 2)
    found = advantages(BINARY, groups, {"x": 1, "y": 1}, estimator=GRPO)
    assert found.tolist() == pytest.approx([-math.sqrt(1 / 2), math.sqrt(1 / 2), -math.sqrt(2), math.sqrt(2)])


def test_gdpo_normalises_the_sums_again() -> None:
    # Equation 6: mean 0, variance (2 * 1/2 + 2 * 2) / 3 = 5/3.
    found = advantages(BINARY, ["p"] * 4, {"x": 1, "y": 1}, estimator=GRPO, renormalize=True)
    assert found.tolist() == pytest.approx([-math.sqrt(0.3), math.sqrt(0.3), -math.sqrt(1.2), math.sqrt(1.2)])


def test_the_sums_that_are_normalised_again_are_those_of_valid_completions() -> None:
    parts = parts_of([0, 1, nan, 3, 1, 5], labels="x")
    found = advantages(parts, ["p"] * 6, {"x": 1}, estimator=Estimator("history", "none"), renormalize=True)
    # 0 1 3 1 5 have mean 2 and squares 4 + 1 + 1 + 1 + 9 = 16: variance 4; epsilon is 1e-4.
    assert found.tolist() == pytest.approx([x / 2.0001 for x in (-2, -1, 0, 1, -1, 3)], rel=1e-6)


@pytest.mark.parametrize("values", [[1, 1], [nan, 4], [nan, nan]])
def test_sums_without_a_spread_become_zero(values: list[float]) -> None:
    estimator = Estimator("history", "none")
    found = advantages(
        parts_of(values, labels="x"), ["p", "p"], {"x": 1}, estimator=estimator, renormalize=True
    )
    assert found.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_missing_part_leaves_the_others(preset: str) -> None:
    groups, weights = ["p"] * 4, {"x": 1, "y": 3}
    holed = [{**row, "y": nan} if i == 1 else row for i, row in enumerate(XY)]
    only_x = advantages(holed, groups, {"x": 1}, estimator=preset)
    only_y = advantages(holed, groups, {"y": 1}, estimator=preset)
    found = advantages(holed, groups, weights, estimator=preset)
    assert found.tolist() == pytest.approx((only_x + 3 * only_y).tolist(), rel=1e-6)
    assert only_y[1] == 0
    # What the others have of y is as if the hole were not there.
    history = PartHistory(weights, RewardHistory())
    history.update(holed, groups, num_generations=2, step=1)
    assert history.history.count("y/p") == 3
    assert history.history.count("x/p") == 4


def test_which_completions_are_valid() -> None:
    parts: list[dict[str, float]] = [
        {"x": 1.0},
        {"x": nan},
        {"x": nan, "y": 2.0},
        {"x": nan, "y": nan},
        {},
        {},
    ]
    history = PartHistory({"x": 1, "y": 1}, RewardHistory())
    found = compute_part_advantages(parts, ["p"] * 6, num_generations=2, history=history, estimator="grpo")
    # The last two are of a preference group that no reward is for: 0, as the sum of rewards is.
    assert found.valid_N.tolist() == [True, False, True, False, True, True]
    assert torch.isnan(found.baseline_N).all()
    assert torch.isnan(found.scale_N).all()
    assert found.advantages_N.dtype == torch.float32


def test_a_part_that_does_not_apply_has_no_history() -> None:
    history = PartHistory({"x": 1, "y": 1}, RewardHistory())
    history.update(
        [{"x": 1.0}, {"x": 2.0}, {"y": 3.0}, {"y": 4.0}], ["p", "p", "q", "q"], num_generations=2, step=1
    )
    assert [(group, part, s.n, s.mean) for group, part, s in history.all_stats()] == [
        ("p", "x", 2, 1.5), ("q", "y", 2, 3.5),
    ]  # fmt: skip
    assert [(group, part) for group, part, _ in history.stats(["q", "r", "q"])] == [("q", "y")]


ODD = ["p", "x/p", "/p", "y/x/p", "", "/", "x", "\ud800", "p/"]


def test_preference_groups_with_odd_names_do_not_meet() -> None:
    labels = ["x", "y", "x-y"]
    history = PartHistory(dict.fromkeys(labels, 1.0), RewardHistory())
    for i, group in enumerate(ODD):
        values = {label: float(10 * i + j) for j, label in enumerate(labels)}
        history.update([values], [group], num_generations=1, step=i)
    found = {(group, part): s.mean for group, part, s in history.all_stats()}
    assert found == {
        (group, label): 10 * i + j for i, group in enumerate(ODD) for j, label in enumerate(labels)
    }


def test_a_label_with_a_slash_is_refused() -> None:
    with pytest.raises(ValueError, match="label 'x/y' holds a slash"):
        PartHistory({"x/y": 1.0}, RewardHistory())


def test_an_infinite_part_changes_nothing() -> None:
    history = PartHistory({"x": 1, "y": 1}, RewardHistory())
    history.update(XY, ["p"] * 4, num_generations=2, step=1)
    before = comparable(history.state_dict())
    with pytest.raises(RewardError):
        history.update([*XY[:3], {"x": 1.0, "y": math.inf}], ["p"] * 4, num_generations=2, step=2)
    assert comparable(history.state_dict()) == before


def test_a_history_goes_on_from_its_state() -> None:
    one, two = (PartHistory({"x": 1, "y": 2}, RewardHistory("ema", decay=0.9)) for _ in range(2))
    one.update(XY, ["p"] * 4, num_generations=2, step=1)
    two.load_state_dict(one.state_dict())
    for history in (one, two):
        history.update(XY, ["p"] * 4, num_generations=2, step=2)
    assert comparable(one.state_dict()) == comparable(two.state_dict())


# Properties. Eighths: sums are exact, so that a spread is either zero or far from rounding.

G = 3
reward = st.integers(-80, 80).map(lambda i: i / 8)
reward_or_nan = st.one_of(reward, reward, reward, st.just(nan))
quick = settings(deadline=None, max_examples=30)
each_preset = pytest.mark.parametrize("preset", PRESETS)


def batches(values: st.SearchStrategy[float]) -> st.SearchStrategy[Any]:
    """Prompts, each a preference group and G pairs of parts."""
    pairs = st.lists(st.tuples(values, values), min_size=G, max_size=G)
    return st.lists(st.tuples(st.sampled_from("abc"), pairs), min_size=1, max_size=5)


def flat(batch: Any, factor: float = 1.0) -> tuple[list[dict[str, float]], list[str]]:
    parts = [{"x": factor * x, "y": y} for _, pairs in batch for x, y in pairs]
    return parts, [group for group, _ in batch for _ in range(G)]


@each_preset
@quick
@given(past=batches(reward_or_nan), batch=batches(reward_or_nan), before=st.booleans())
def test_one_part_of_weight_one_is_the_sum_of_rewards(
    preset: str, past: Any, batch: Any, before: bool
) -> None:
    """Both orders are one then: bit for bit, whatever is missing."""
    parts, groups = flat(batch)
    parts = [{"x": row["x"]} for row in parts]
    rewards = [row["x"] for row in parts]
    summed, apart = RewardHistory(), PartHistory({"x": 1.0}, RewardHistory())
    for step, (rows, names) in enumerate([flat(past), (parts, groups)][: 1 + before], start=1):
        summed.update([row["x"] for row in rows], names, num_generations=G, step=step)
        apart.update(rows, names, num_generations=G, step=step)
    common: dict[str, Any] = {"num_generations": G, "estimator": preset, "min_count": 2}
    expected = compute_advantages(rewards, groups, history=summed, **common)
    found = compute_part_advantages(parts, groups, history=apart, **common)
    assert torch.equal(found.advantages_N, expected.advantages_N)
    assert torch.equal(found.valid_N, expected.valid_N)


SCALED = [name for name, (_, scale) in PRESETS.items() if scale != "none"]


@pytest.mark.parametrize("preset", SCALED)
@quick
@given(batch=batches(reward_or_nan))
def test_the_unit_of_a_part_does_not_matter(preset: str, batch: Any) -> None:
    baseline, scale = PRESETS[preset]
    weights, estimator = {"x": 1.0, "y": 1.0}, Estimator(baseline, scale, epsilon=0)
    (parts, groups), (larger, _) = flat(batch), flat(batch, factor=1000)
    found = advantages(parts, groups, weights, G=G, estimator=estimator)
    again = advantages(larger, groups, weights, G=G, estimator=estimator)
    assert again.tolist() == pytest.approx(found.tolist(), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("preset", SCALED)
def test_the_unit_of_a_part_matters_to_the_sum_of_rewards(preset: str) -> None:
    baseline, scale = PRESETS[preset]
    estimator, groups = Estimator(baseline, scale, epsilon=0), ["p"] * 4

    # One prompt of four: two numbers alone would be -1/sqrt 2 and 1/sqrt 2 in any unit.
    def summed(factor: float) -> Tensor:
        rewards = [factor * row["x"] + row["y"] for row in XY]
        history = RewardHistory()
        history.update(rewards, groups, num_generations=4, step=1)
        return compute_advantages(
            rewards, groups, num_generations=4, history=history, estimator=estimator
        ).advantages_N

    assert (summed(1000) - summed(1)).abs().max() > 0.1


@each_preset
@quick
@given(batch=batches(reward), weight=st.integers(-4, 4))
def test_weights_weigh_advantages(preset: str, batch: Any, weight: int) -> None:
    parts, groups = flat(batch)
    x, y = (advantages(parts, groups, {label: 1}, G=G, estimator=preset) for label in "xy")
    found = advantages(parts, groups, {"x": weight, "y": 1}, G=G, estimator=preset)
    assert found.tolist() == pytest.approx((weight * x + y).tolist(), rel=1e-5, abs=1e-5)
