"""PGRPOTrainer in two processes (gloo, CPU): every process holds the whole history."""

from __future__ import annotations

import json

import pytest

from pgrpo_cli.algo.advantages import compute_advantages
from pgrpo_cli.algo.history import RewardHistory
from tests.support.trl_engine import STEPS, G
from tests.support.trl_processes import LOSS_TYPES, replayed, torchrun, trainer_of

MODULE = "tests.support.trl_processes"


@pytest.mark.slow
def test_two_processes_have_the_history_of_one_stream_and_one_goes_on(tmp_path, monkeypatch):
    done = torchrun(2, MODULE, "train", tmp_path)
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[0]["stats"] == ranks[1]["stats"]
    assert ranks[0]["stream"] == ranks[1]["stream"]

    history = RewardHistory()
    for step, (rewards_N, groups_N) in enumerate(ranks[0]["stream"], 1):
        history.update(rewards_N, groups_N, num_generations=G, step=step)
        expected = compute_advantages(rewards_N, groups_N, num_generations=G, history=history).advantages_N
        # The completions of process 0 come first.
        slices = [advantage for rank in ranks for advantage in rank["advantages"][step - 1]]
        assert slices == expected.tolist()
        assert len(set(rewards_N)) > 2
    assert step == STEPS
    for name, stats in history.stats().items():
        assert ranks[0]["stats"][name] == pytest.approx(vars(stats), rel=1e-12)

    # Another number of processes goes on from the checkpoint of two.
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    resumed = trainer_of(tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert len(resumed.seen) == STEPS - 2
    for name, stats in resumed.history.stats().items():
        assert (stats.n, stats.last_step) == (ranks[0]["stats"][name]["n"], STEPS)


@pytest.mark.slow
def test_a_history_that_differs_between_processes_is_found_before_a_checkpoint_is_written(tmp_path):
    done = torchrun(2, MODULE, "drift", tmp_path)
    assert done.returncode != 0
    assert "step 2: the reward history of process 0 is not that of process 1" in done.stderr
    assert not list(tmp_path.glob("checkpoint-*"))


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one_with_twice_the_batch(tmp_path, monkeypatch):
    done = torchrun(2, MODULE, "replay", tmp_path)
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for loss_type in LOSS_TYPES:
        alone = replayed(tmp_path / "alone", loss_type)
        for rank in ranks:
            assert rank[loss_type]["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-4), loss_type
            assert rank[loss_type]["loss"] == pytest.approx(alone["loss"], rel=1e-4, abs=1e-6), loss_type
        assert min(alone["grad_norm"]) > 1e-3
