"""Rows and metrics of a step, from made rollouts; and the model card."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from pgrpo_cli.algo.history import RewardHistory
from pgrpo_cli.algo.types import UpdateResult
from pgrpo_cli.rewards.base import Score
from pgrpo_cli.state.adapter import model_card
from pgrpo_cli.state.records import ScoredStep, completion_rows, group_rows, history_rows, step_record
from tests.support.runs import recipe_of

NAN = math.nan


SCORES = [Score(1.0, {"x": 0.5}), Score(2.0, {}), Score(NAN, {}), Score(6.0, {})]
SCORED = ScoredStep(
    step=7,
    num_generations=2,
    prompt_ids_P=["p1", "p2"],
    preference_groups_P=["a", "b"],
    texts_N=["ab", "c", "def", "é"],
    lengths_N=[2, 1, 3, 1],
    finished_N=[True, True, False, True],
    scores_N=SCORES,
    advantages_N=[-1.0, 1.0, 0.0, 2.0],
    clipped_fraction=0.25,
    entropy=2.0,
)
FIRST = UpdateResult(0.5, 2.5, {"kl": 0.0}, tokens=40, padding=4, reference_seconds=0.5)
UPDATES = [FIRST, UpdateResult(0.25, 1.5, {"kl": 0.125}, tokens=40, padding=4, reference_seconds=0.25)]


def test_a_row_a_completion_in_order_of_prompts() -> None:
    rows = completion_rows(SCORED)
    assert [(r.step, r.prompt, r.generation, r.prompt_id, r.preference_group) for r in rows] == [
        (7, 0, 0, "p1", "a"),
        (7, 0, 1, "p1", "a"),
        (7, 1, 0, "p2", "b"),
        (7, 1, 1, "p2", "b"),
    ]
    assert [(r.reward, r.advantage, r.length, r.text) for r in rows] == [
        (1.0, -1.0, 2, "ab"),
        (2.0, 1.0, 1, "c"),
        (None, 0.0, 3, "def"),
        (6.0, 2.0, 1, "é"),
    ]
    assert json.loads(rows[0].parts) == {"x": 0.5}


def test_the_metrics_of_a_step() -> None:
    seconds = {"rollout": 1.75, "training": 3.25, "save": 0.5}
    record = step_record(SCORED, UPDATES, 0.5, seconds, {"training": 64})
    # Rewards 1, 2, 6: mean 3, deviations -2, -1, 3, sample variance 14 / 2 = 7.
    assert (record["reward_mean"], record["reward_std"]) == (3.0, pytest.approx(math.sqrt(7)))
    assert record["missing_rewards"] == 1
    # (1 + 1 + 0 + 2) / 4, (2 + 1 + 3 + 1) / 4, one of four cut.
    assert record["advantage_abs_mean"] == 1.0
    assert record["advantage_clip_fraction"] == 0.25
    assert (record["completion_length_mean"], record["truncated_fraction"]) == (1.75, 0.25)
    assert record["entropy"] == 2.0
    assert (record["loss"], record["grad_norm"], record["kl"], record["learning_rate"]) == (
        0.25,
        1.5,
        0.125,
        0.5,
    )
    assert record["groups"] == {"a": {"n": 2, "mean": 1.5}, "b": {"n": 1, "mean": 6.0}}
    assert record["tokens"] == {"completions": 7, "training": 80, "budgets": {"training": 64}}
    # 8 of 80.
    assert record["padding_fraction"] == 0.1
    # Of 3.25 s the two updates spent 0.5 + 0.25 on the reference.
    assert record["seconds"] == {
        "rollout": 1.75,
        "training": 2.5,
        "reference": 0.75,
        "save": 0.5,
        "total": 5.5,
    }
    # 7 / 1.75, 80 / 2.5, 80 / 0.75.
    assert record["tokens_per_second"] == {"rollout": 4.0, "training": 32.0, "reference": 106.7}


def test_the_scale_of_the_loss_is_told_where_gradients_overflowed() -> None:
    def record(*scales: float | None) -> dict[str, Any]:
        updates = [replace(FIRST, lowered_scale=scale) for scale in scales]
        return step_record(SCORED, updates, 0.5, {"training": 1.0}, {})

    assert "loss_scale" not in record(None, None)
    assert record(512.0, None)["loss_scale"] == 512.0
    assert record(512.0, 128.0)["loss_scale"] == 128.0


def test_drawn_preference_groups_stand_beside_the_named_ones() -> None:
    """Two prompts with two completions each, of rewards (1, 2) and (missing, 6), in one drawn group."""
    drawn = replace(SCORED, random_groups_P=["random-2", "random-2"])
    record = step_record(drawn, UPDATES, 0.5, {"training": 1.0}, {})
    assert record["groups"] == {"a": {"n": 2, "mean": 1.5}, "b": {"n": 1, "mean": 6.0}}
    assert record["random_groups"] == {"random-2": {"n": 3, "mean": 3.0}}
    assert "random_groups" not in step_record(SCORED, UPDATES, 0.5, {"training": 1.0}, {})


def test_a_single_reward_has_no_spread() -> None:
    scores = [SCORES[0], *[Score(NAN, {})] * 3]
    record = step_record(replace(SCORED, scores_N=scores), UPDATES, 0.5, {"training": 1.0}, {})
    assert (record["reward_mean"], record["reward_std"]) == (1.0, None)
    assert record["groups"] == {"a": {"n": 1, "mean": 1.0}}


@pytest.fixture
def history() -> RewardHistory:
    history = RewardHistory()
    history.update([1.0, 3.0, 5.0, 7.0], ["a", "a", "z", "z"], num_generations=2, step=4)
    return history


def test_the_preference_groups_of_a_step_are_rows(history: RewardHistory) -> None:
    (row,) = group_rows(history.stats(SCORED.history_labels_P))
    assert (row.preference_group, row.n, row.mean, row.std) == ("a", 2, 2.0, pytest.approx(math.sqrt(2)))
    assert (row.first_step, row.last_step, row.prompts) == (4, 4, 1)


def test_all_preference_groups_are_rows_a_few_at_a_time(
    history: RewardHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    history.update([1.0, 2.0, 3.0], ["c", "b", "a"], num_generations=1, step=5)
    asked: list[int] = []
    real = RewardHistory.stats

    def stats(self: RewardHistory, names: list[str]) -> Any:
        asked.append(len(names))
        return real(self, names)

    monkeypatch.setattr("pgrpo_cli.state.records._ROWS_AT_ONCE", 3)
    monkeypatch.setattr(RewardHistory, "stats", stats)
    rows = history_rows(history)
    assert asked == []
    assert [row.preference_group for row in rows] == ["a", "z", "c", "b"]
    assert asked == [3, 1]
    assert list(history_rows(RewardHistory())) == []


def test_the_model_card_has_front_matter_and_a_row_a_preference_group(history: RewardHistory) -> None:
    card = model_card(recipe_of(advantage__estimator="grpo"), history, step=7, done=9)
    front = card.split("---\n")[1]
    assert "library_name: peft" in front
    assert 'base_model: "random"' in front
    assert "`grpo`" in card
    assert "| a | 1 | 2 | 2.000 | 1.414 |" in card
    assert "by preference group:" in card
    assert "for 7 steps of" in card and "seen in 9 steps of training" in card


def test_the_model_card_of_many_preference_groups_lists_the_most_seen(history: RewardHistory) -> None:
    names = [f"user {i}" for i in range(150)]
    history.update([0.5] * 150, names, num_generations=1, step=5)
    card = model_card(recipe_of(), history, step=1, done=1)
    rows = [line.split(" | ")[0].removeprefix("| ") for line in card.splitlines() if line.startswith("| ")]
    assert rows == ["preference group", "---", "a", "z", *names[:98]]
    assert "by preference group (the 100 most seen; 52 more are not listed):" in card
