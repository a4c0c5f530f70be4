"""What a step does and leaves behind, and how an error in it ends the run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from pgrpo_cli.algo.history import RewardHistory
from pgrpo_cli.algo.history_table import HistoryTable
from pgrpo_cli.errors import Interrupted, TrainingError
from pgrpo_cli.histories import RewardHistories
from pgrpo_cli.recipe.load import load_recipe
from pgrpo_cli.rewards.base import Completion, Score
from pgrpo_cli.state.checkpoint import latest_checkpoint
from pgrpo_cli.state.history_store import read_groups
from pgrpo_cli.state.run import RunDirectory
from tests.support.history import read_completions
from tests.support.loop import Tracker, Watcher, go
from tests.support.rewards import Plain, summed
from tests.support.runs import recipe_of
from tests.support.small_device import forward_limit
from tests.support.training import metrics, write_tiny


def test_a_step_goes_through_its_phases_in_order(tmp_path: Path) -> None:
    watcher = go(write_tiny(tmp_path), tmp_path / "run", "train.steps=2")
    phases = ["rollout", "reward", "training", "save", "done"]
    assert watcher.events == [(step, phase) for step in (1, 2) for phase in phases]
    assert watcher.messages == []


def test_a_step_reads_its_own_preference_groups_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a million preference groups a step must not look at all; a run may, at its start and its end."""

    class Groups(Watcher):
        def on_step(self, record: Mapping[str, Any], groups: Mapping[str, Any]) -> None:
            assert list(groups) == list(record["groups"])
            latest.update({name: stats.n for name, stats in groups.items()})

    reads: list[str] = []
    all_rows, keys = HistoryTable.all_rows, HistoryTable.keys.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(HistoryTable, "all_rows", lambda self: (reads.append("rows"), all_rows(self))[1])
    monkeypatch.setattr(HistoryTable, "keys", property(lambda self: (reads.append("keys"), keys(self))[1]))
    recipe, counts = write_tiny(tmp_path), []
    for steps in (2, 6):
        reads.clear()
        latest: dict[str, int] = {}
        options = (f"train.steps={steps}", "train.prompts_per_step=1", "train.save_every=99")
        go(recipe, tmp_path / f"run-{steps}", *options, watcher=Groups())
        counts.append(len(reads))
        # What the watcher is told, and the store keeps, is the history's count, not the step's.
        store = tmp_path / f"run-{steps}" / "history.sqlite"
        assert latest == {group.preference_group: group.n for group in read_groups(store)}
        assert sum(latest.values()) == 4 * steps
    assert counts[0] == counts[1] > 0
    assert len(latest) < steps


def test_what_a_step_leaves_behind(tmp_path: Path) -> None:
    go(write_tiny(tmp_path), tmp_path / "run", "train.steps=1")
    run = RunDirectory(tmp_path / "run")
    rows = read_completions(run.history_path)
    assert [(row["step"], row["prompt"], row["generation"]) for row in rows] == [
        (1, p, g) for p in range(3) for g in range(4)
    ]
    (line,) = metrics(run.path)
    rewards = torch.tensor([row["reward"] for row in rows], dtype=torch.float64)
    assert line["reward_mean"] == pytest.approx(rewards.mean().item(), abs=1e-12)
    assert line["reward_std"] == pytest.approx(rewards.std().item(), abs=1e-12)
    assert line["completion_length_mean"] == sum(row["length"] for row in rows) / 12
    assert all(row["parts"] == {"length": row["reward"]} for row in rows)
    # Before any other step a preference group's history is the rewards of this one.
    for group in read_groups(run.history_path):
        own = torch.tensor([r["reward"] for r in rows if r["preference_group"] == group.preference_group])
        assert (group.n, group.first_step, group.last_step) == (len(own), 1, 1)
        assert (group.mean, group.std) == pytest.approx((own.mean().item(), own.std().item()), abs=1e-6)
        for row in rows:
            if row["preference_group"] == group.preference_group:
                expected = (row["reward"] - group.mean) / (group.std + 1e-4)  # type: ignore[operator]
                assert row["advantage"] == pytest.approx(expected, abs=1e-5)


def test_missing_rewards_give_no_signal_and_do_not_count(tmp_path: Path) -> None:
    def one_in_four_missing(completions: Sequence[Completion]) -> list[Score]:
        return [Score(math.nan if i % 4 == 1 else float(i % 4), {}) for i, _ in enumerate(completions)]

    go(write_tiny(tmp_path), tmp_path / "run", "train.steps=1", rewards=summed(Plain(one_in_four_missing)))
    rows = read_completions(tmp_path / "run" / "history.sqlite")
    assert [row["reward"] for row in rows] == [0.0, None, 2.0, 3.0] * 3
    assert {row["advantage"] for row in rows[1::4]} == {0.0}
    assert all(row["advantage"] != 0 for row in rows if row["reward"] is not None)
    assert sum(group.n for group in read_groups(tmp_path / "run" / "history.sqlite")) == 9
    assert metrics(tmp_path / "run")[0]["missing_rewards"] == 3


def all_missing(completions: Sequence[Completion]) -> list[Score]:
    return [Score(math.nan, {}) for _ in completions]


def test_a_step_without_any_reward_changes_no_weight(tmp_path: Path) -> None:
    before: dict[str, torch.Tensor] = {}
    policies: list[Any] = []

    def touch(policy: Any) -> None:
        policies.append(policy)
        before.update({name: p.detach().clone() for name, p in policy.trainable.items()})

    go(
        write_tiny(tmp_path),
        tmp_path / "run",
        "train.steps=1",
        rewards=summed(Plain(all_missing)),
        touch=touch,
    )
    assert all(torch.equal(before[name], p) for name, p in policies[0].trainable.items())
    (line,) = metrics(tmp_path / "run")
    assert (line["reward_mean"], line["reward_std"], line["missing_rewards"]) == (None, None, 12)
    assert (line["loss"], line["grad_norm"], line["groups"]) == (0.0, 0.0, {})
    assert read_groups(tmp_path / "run" / "history.sqlite") == []


def test_a_later_step_without_any_reward_leaves_the_history_as_it_was(tmp_path: Path) -> None:
    def missing_from_the_second_call_on(completions: Sequence[Completion]) -> list[Score]:
        calls.append(1)
        if len(calls) > 1:
            return all_missing(completions)
        return [Score(float(i), {}) for i, _ in enumerate(completions)]

    calls: list[int] = []
    run, rewards = tmp_path / "run", summed(Plain(missing_from_the_second_call_on))
    go(write_tiny(tmp_path), run, "train.steps=2", rewards=rewards)
    rows = read_completions(run / "history.sqlite")
    assert [(row["reward"], row["advantage"]) for row in rows[12:]] == [(None, 0.0)] * 12
    assert sum(group.n for group in read_groups(run / "history.sqlite")) == 12
    assert {group.last_step for group in read_groups(run / "history.sqlite")} == {1}
    assert [line["missing_rewards"] for line in metrics(run)] == [0, 12]
    assert (metrics(run)[1]["reward_mean"], metrics(run)[1]["loss"]) == (None, 0.0)


@pytest.mark.parametrize("stop_after", [None, 1])
def test_trackers_get_flat_numbers_and_are_closed(tmp_path: Path, stop_after: int | None) -> None:
    tracker = Tracker()
    try:
        go(write_tiny(tmp_path), tmp_path / "run", watcher=Watcher(stop_after), tracker=tracker)
    except Interrupted:
        assert stop_after == 1
    assert tracker.steps == list(range(1, (stop_after or 6) + 1))
    assert tracker.closed == 1
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert tracker.numbers["seconds/total"] == last["seconds"]["total"]
    group, numbers = next(iter(last["groups"].items()))
    assert tracker.numbers[f"groups/{group}/mean"] == numbers["mean"]


def test_a_gradient_that_is_not_finite_stops_and_is_not_saved(tmp_path: Path) -> None:
    def explode(policy: Any) -> None:
        next(iter(policy.trainable.values())).register_hook(lambda gradient: gradient * math.inf)

    with pytest.raises(TrainingError, match="step 1: the gradient is not finite"):
        go(write_tiny(tmp_path), tmp_path / "run", touch=explode)
    assert read_completions(tmp_path / "run" / "history.sqlite") == []
    assert latest_checkpoint(RunDirectory(tmp_path / "run")) == (None, [])


def test_two_updates_a_rollout_go_further_than_one(tmp_path: Path) -> None:
    recipe = write_tiny(tmp_path)
    go(recipe, tmp_path / "one", "train.steps=1")
    go(recipe, tmp_path / "two", "train.steps=1", "train.updates_per_rollout=2")
    (one,), (two,) = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert one["reward_mean"] == two["reward_mean"]
    # At the first update the policy is still the one that sampled; at the second it has moved.
    assert abs(one["ratio_mean"] - 1) < 1e-5 < abs(two["ratio_mean"] - 1)


def test_running_out_of_memory_is_told_recorded_and_changes_nothing_else(tmp_path: Path) -> None:
    recipe = write_tiny(tmp_path)
    settings = ("train.steps=2", "rollout.tokens_per_batch=16384", "train.tokens_per_micro_batch=4096")
    go(recipe, tmp_path / "whole", *settings)
    with ExitStack() as stack:
        watcher = go(
            recipe, tmp_path / "run", *settings,
            touch=lambda policy: stack.enter_context(forward_limit(policy, 80)),
        )  # fmt: skip
    whole, lines = metrics(tmp_path / "whole"), metrics(tmp_path / "run")
    assert [line["tokens"]["budgets"] for line in whole] == [{"rollout": 16384, "training": 4096}] * 2
    budgets = [line["tokens"]["budgets"] for line in lines]
    assert budgets[0] == budgets[1]
    found = "warning: step 1: out of memory; {} now hold at most {} tokens"
    assert watcher.messages[0] == found.format("rollout batches", budgets[0]["rollout"])
    assert watcher.messages[-1] == found.format("micro-batches", budgets[0]["training"])
    for line, expected in zip(lines, whole, strict=True):
        assert line["reward_mean"] == expected["reward_mean"]
        assert line["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4)
        assert line["tokens"]["completions"] == expected["tokens"]["completions"]


@pytest.mark.parametrize(
    ("update", "expected"),
    [
        # Mean 4 and sample variance ((3² + 1² + 1² + 3²) / 3) = 20/3 of 1, 3, 5, 7.
        (
            "before",
            [-3 / math.sqrt(20 / 3), -1 / math.sqrt(20 / 3), 1 / math.sqrt(20 / 3), 3 / math.sqrt(20 / 3)],
        ),
        # No history yet: each prompt's own mean (2, 6) and standard deviation (sqrt 2).
        ("after", [-1 / math.sqrt(2), 1 / math.sqrt(2), -1 / math.sqrt(2), 1 / math.sqrt(2)]),
    ],
)
def test_a_batch_enters_the_history_before_or_after(update: Any, expected: list[float]) -> None:
    recipe = recipe_of(history__update=update)
    scores = [Score(value, {}) for value in (1.0, 3.0, 5.0, 7.0)]
    advantage = recipe.advantage.model_copy(update={"epsilon": 0.0})
    histories = RewardHistories(advantage, recipe.history)
    found = histories.advantages(scores, ["p"] * 4, num_generations=2, step=1)
    assert found.advantages_N.tolist() == pytest.approx(expected, abs=1e-6)
    assert (histories.history.count("p"), histories.history.mean("p")) == (4, 4.0)


@pytest.mark.parametrize("aggregate", ["sum_then_normalize", "normalize_then_sum"])
def test_a_history_is_used_from_its_least_count_on(aggregate: str) -> None:
    recipe = recipe_of(history={"update": "after", "min_count": 6}, advantage={"aggregate": aggregate})
    advantage = recipe.advantage.model_copy(update={"epsilon": 0.0})
    histories = RewardHistories(advantage, recipe.history, summed(Plain(all_missing)).weights)
    found = []
    for step in (1, 2, 3):
        scores = [Score(value, {}, {"r0": value}) for value in (1.0, 3.0, 5.0, 7.0)]
        made = histories.advantages(scores, ["p"] * 4, num_generations=2, step=step)
        found.append(made.advantages_N.tolist())
    # 0 and 4 rewards: each prompt's own mean (2, 6) and standard deviation (sqrt 2).
    own = [-1 / math.sqrt(2), 1 / math.sqrt(2)] * 2
    # Then 8 rewards, mean 4, squares 2 (9 + 1 + 1 + 9) = 40, variance 40 / 7.
    past = [x / math.sqrt(40 / 7) for x in (-3, -1, 1, 3)]
    for advantages, expected in zip(found, [own, own, past], strict=True):
        assert advantages == pytest.approx(expected, abs=1e-6)


def test_every_kind_of_history_is_made(tmp_path: Path) -> None:
    def history(**kind: Any) -> RewardHistory:
        recipe = load_recipe(write_tiny(tmp_path, history={"kind": kind}))
        return RewardHistories(recipe.advantage, recipe.history).history

    assert history(type="cumulative").kind == "cumulative"
    ema, window = history(type="ema", decay=0.5), history(type="window", size=3)
    assert (ema.kind, ema.decay) == ("ema", 0.5)
    assert (window.kind, window.window) == ("window", 3)
