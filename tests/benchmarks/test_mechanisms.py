"""The studies of mechanisms: what their courses change, by hand, and all of them in small."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import advice, mechanisms
from benchmarks.courses import Balanced, Newcomer, Noisy, Outliers, RareSuccesses, WorstGroup, prior_rewards
from benchmarks.mechanisms import Arm, Row, Study, tables
from benchmarks.small_policy import Course, Draws, World, train
from pgrpo_cli.algo.estimators import resolve_estimator
from pgrpo_cli.algo.history import RewardHistory

WORLD = World(features=4, tokens=3, vocabulary=8, shares_K=(0.7, 0.1, 0.1, 0.1))
DRAWS = Draws.of(WORLD, [0, 1], 6)
ZEROS = torch.zeros(2, 8, 4, dtype=torch.float64)


def test_outliers_are_as_many_and_as_large_as_said() -> None:
    draws = Draws.of(replace(WORLD, prompts=2000, scale_ratio=1.0), [3], 2)
    spoilt = Outliers(share=0.02, size=50.0).rewards(draws, 1, torch.zeros(1, 2000, 4).double())
    assert spoilt.unique().tolist() == [-50.0, 0.0, 50.0]
    for value in (-50.0, 50.0):
        assert (spoilt == value).double().mean().item() == pytest.approx(0.01, abs=0.003)


def test_the_first_outlier_is_one_for_each_preference_group_of_the_first_step() -> None:
    spoilt = Outliers(first=1e3).rewards(DRAWS, 0, ZEROS)
    for replica in range(2):
        seen = set()
        for p, group in enumerate(DRAWS.groups_S_B_P[replica, 0].tolist()):
            expected = 0.0 if group in seen else 1e3 * DRAWS.scales_S_K[replica, group].item()
            assert spoilt[replica, p].tolist() == [expected, 0.0, 0.0, 0.0]
            seen.add(group)
    assert not Outliers(first=1e3).rewards(DRAWS, 1, ZEROS).any()


def test_one_of_twenty_is_a_success_at_first() -> None:
    world = World(shares_K=(1.0,), difficulty_K=(0.5,), prompts=3000)
    draws = Draws.of(world, [0], 1)
    first: list[float] = []

    class Kept(RareSuccesses):
        def rewards(self, draws: Draws, step: int, rewards_S_P_G: torch.Tensor) -> torch.Tensor:
            found = super().rewards(draws, step, rewards_S_P_G)
            first.append(found.mean().item())
            return found

    train(world, draws, resolve_estimator("pgrpo"), torch.tensor([0.1]), course=Kept())
    assert first == [pytest.approx(0.05, abs=0.02)]


def test_noise_is_multiplied_for_some_preference_groups() -> None:
    noisy = Noisy(WORLD, (1.0, 3.0, 3.0, 3.0)).rewards(DRAWS, 2, ZEROS)
    groups = DRAWS.groups_S_B_P[:, 2]
    scales = DRAWS.scales_S_K.gather(1, groups)
    expected = torch.where(groups == 0, 0.0, 2.0 * scales)[..., None] * DRAWS.noise_S_B_P_G[:, 2]
    torch.testing.assert_close(noisy, expected)


def test_balanced_steps_have_two_prompts_of_each_of_four() -> None:
    for step in range(6):
        groups = Balanced(WORLD, (1.0,) * 4).groups(DRAWS, step)
        assert all(row.bincount(minlength=4).tolist() == [2, 2, 2, 2] for row in groups)


def test_the_group_that_gains_least_is_sampled_most() -> None:
    course = WorstGroup(WORLD, (1.0,) * 4)
    draws = replace(DRAWS, groups_S_B_P=torch.arange(8).remainder(4).expand(2, 6, 8).clone())
    # Rewards of +-1: a variance within of 4/3. Those of group 3 stay, those of the others rise by 1 a step.
    signs = torch.tensor([-1.0, 1.0, -1.0, 1.0]).double()
    course.shares(2, 4)
    for step in range(6):
        level = torch.where(draws.groups_S_B_P[:, step] == 3, 0.0, float(step))
        course.rewards(draws, step, level[..., None] + signs)
    shares = course.shares(2, 4)
    assert shares.sum(1).tolist() == pytest.approx([1.0, 1.0])
    # Half is shared equally; the first 8 prompts of a group are steps 0 to 3, whose mean is 1.5. The recent
    # mean m of two prompts a step: m <- 0.81 m + 0.19 step from 0.
    recent = 0.0
    for step in range(1, 6):
        recent = 0.81 * recent + 0.19 * step
    weight = torch.tensor([-(recent - 1.5) / (4 / 3) ** 0.5 / 0.5] * 3 + [0.0]).softmax(0)
    assert shares[0].tolist() == pytest.approx((0.125 + weight / 2).tolist(), rel=1e-4)


def test_a_prior_has_the_moments_that_it_is_made_of() -> None:
    history = RewardHistory()
    history.update(prior_rewards(5.0, 3.0, 0.0, 16), ["a"] * 16, num_generations=4, step=1)
    found = history.stats()["a"]
    assert (found.n, found.mean, found.within_variance) == (16, pytest.approx(5.0), pytest.approx(3.0))
    assert found.between_variance == 0.0
    # Four prompts at 5 ± 2: a variance of 4 · 4 / 3 between their means, less 3 / 4 by chance.
    history = RewardHistory()
    history.update(prior_rewards(5.0, 3.0, 4.0, 16), ["a"] * 16, num_generations=4, step=1)
    assert history.stats()["a"].between_variance == pytest.approx(16 / 3 - 3 / 4)


def test_a_newcomer_joins_late_with_its_prior() -> None:
    draws = Draws.of(replace(WORLD, shares_K=(0.1, 0.1, 0.1, 0.7)), [0], 6)
    course = Newcomer(joins=3, prior=16)
    for step in range(6):
        assert (3 in course.groups(draws, step)) == (step >= 3)
    trained = train(WORLD, draws, resolve_estimator("pgrpo"), torch.tensor([0.1]), course=course)
    rewards = [stats.n for stats in trained.stats_S[0]]
    assert sum(rewards) == 6 * 8 * 4 + 16
    plain = train(WORLD, draws, resolve_estimator("pgrpo"), torch.tensor([0.1]), course=Newcomer(joins=3))
    assert sum(stats.n for stats in plain.stats_S[0]) == 6 * 8 * 4


def test_differences_are_to_the_first_arm_with_the_same_estimator() -> None:
    study = Study({"w": (WORLD, [])}, ("area",))

    def row(estimator: str, name: str, *areas: float) -> Row:
        return Row("w", Arm(estimator, name, Course), 0.4, {"area": torch.tensor(areas).double()})

    text = tables(
        study, [row("pgrpo", "a", 0.2, 0.4), row("pgrpo", "b", 0.3, 0.5), row("grpo", "a", 0.1, 0.2)]
    )
    lines = text.splitlines()[2:]
    assert lines[2] == "| `pgrpo` | a | 0.4 | 0.300 |"
    assert lines[3].startswith("| `pgrpo` | b | 0.4 | 0.400, +0.100 [+0.100..+0.100]")
    assert lines[4] == "| `grpo` | a | 0.4 | 0.150 |"


def test_the_studies_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mechanisms, "STEPS", 25)
    for study in mechanisms.STUDIES.values():
        name, (world, arms) = next(iter(study().worlds.items()))
        small = Study({name: (world, arms[:2])}, study().measures, rates=(0.2, 0.4))
        rows = mechanisms.studied(small, 2, 1, lambda text: None)
        assert [row.arm for row in rows] == arms[:2]
        assert all(row.rate in (0.2, 0.4) and len(row.scores["area"]) == 2 for row in rows)
    results, page = tmp_path / "found.json", tmp_path / "page.md"
    page.write_text("Before\n<!-- newcomers -->\n<!-- /newcomers -->\n")
    only = Study({name: (world, arms[:1])}, ("newcomer",))
    monkeypatch.setattr(mechanisms, "STUDIES", {"newcomers": lambda: only})
    command = ["mechanisms.py", "--studies", "newcomers", "--seeds", "2", "--tuning-seeds", "1"]
    monkeypatch.setattr(sys, "argv", [*command, "--json", str(results), "--write", str(page)])
    mechanisms.main()
    assert len(json.loads(results.read_text())["newcomers"][0]["newcomer"]) == 2
    assert "| `pgrpo` | no prior |" in page.read_text()


def test_ranks_are_correlated_by_hand() -> None:
    # Ranks 1 2 3 4 beside 1 2 4 3: 1 - 6 · 2 / (4 · 15) = 0.8.
    assert advice.rank_correlation([0.1, 0.2, 0.5, 9.0], [1.0, 2.0, 30.0, 4.0]) == pytest.approx(0.8)


def test_a_recorded_run_is_looked_at_as_it_was() -> None:
    recorder = advice.Recorder()
    draws = Draws.of(WORLD, range(2), 12)
    train(WORLD, draws, resolve_estimator("pgrpo"), torch.full((2,), 0.1), course=recorder)
    found = advice.completions_of(recorder, 1, 12)
    assert len(found) == 12 * 8 * 4
    assert found.reward_N[:4].tolist() == recorder.received[0][1, 0].tolist()
    assert [found.preference_groups[k] for k in found.preference_group_N[::4][:8]] == [
        str(k) for k in draws.groups_S_B_P[1, 0].tolist()
    ]
    assert advice.completions_of(recorder, 1, 5).step_N.max() == 5


def test_the_study_of_the_advice_in_small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (advice, mechanisms):
        monkeypatch.setattr(module, "STEPS", 40)
    monkeypatch.setattr(advice, "LOOKS", (20, 40))
    monkeypatch.setattr(advice, "LEARNING_RATES", (0.4,))
    found = advice.studied(World(noise=3.0), 8, 1)
    # Noisy rewards: s² is 10 at first and τ² 0.25.
    assert found.predicted["pgrpo"] > 0.85
    # Measured on prompts whose rewards are nearly normal: 3/4 · c4(4)².
    assert found.predicted["grpo"] == pytest.approx(2 / torch.pi, abs=0.02)
    assert found.difference == pytest.approx(found.areas["pgrpo"] - found.areas["grpo"])
    assert "| noise |" in advice.text_of({"noise": found})
