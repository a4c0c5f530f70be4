"""Runs with a judge over HTTP: they do without some of its scores, stop without most, ask nothing twice."""

from __future__ import annotations

import json
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.state.history_store import read_groups
from tests.support.history import read_completions
from tests.support.judge import Answer, Asked, JudgeServer, by_length, judge_server
from tests.support.processes import Process
from tests.support.rewards import PATIENCE, threads_left
from tests.support.training import files_in, metrics, outcome, pgrpo, steps_in, write_tiny

LENGTH = {"type": "length", "unit": "characters", "max": 6, "weight": 0.5}
# 12 completions a step, in three batches.
ROLLOUT = {"num_generations": 4, "max_completion_tokens": 8, "tokens_per_batch": 1}
DOWN = Answer(status=503, raw=b"out of memory")


@pytest.fixture
def judge() -> Iterator[JudgeServer]:
    with judge_server(by_length) as server:
        yield server
    assert threads_left() == []


def recipe_for(folder: Path, judge: JudgeServer, **section: Any) -> Path:
    """The tiny recipe with a judge beside a built-in reward, and a checkpoint every 4 steps of 6."""
    folder.mkdir(exist_ok=True)
    reward = {
        "type": "judge", "base_url": judge.url, "model": "small", "backoff_s": 0.001, "retries": 1, **section,
    }  # fmt: skip
    train = {"steps": 6, "prompts_per_step": 3, "learning_rate": 0.01, "save_every": 4}
    return write_tiny(folder, rollout=ROLLOUT, rewards=[LENGTH, reward], train=train)


def run_of(folder: Path, judge: JudgeServer, **section: Any) -> Any:
    return pgrpo("train", recipe_for(folder, judge, **section), "--run-dir", folder / "run")


def recorded(run: Path) -> dict[str, Any]:
    """What two runs have in common that asked for their scores at different times."""
    found = outcome(run)
    del found["checkpoints"], found["names"]
    return {**found, "metrics": [{k: v for k, v in m.items() if k != "usage"} for m in found["metrics"]]}


def usage(run: Path, name: str) -> list[float]:
    return [line["usage"]["judge"][name] for line in metrics(run)]


def questions(asked: list[Asked]) -> list[str]:
    return [json.dumps(one.body, sort_keys=True) for one in asked]


def test_a_run_is_scored_by_its_judge(
    tmp_path: Path, judge: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    price = {"input": 1, "output": 2}
    result = run_of(tmp_path, judge, api_key_env="JUDGE_KEY", price_per_million_tokens=price)
    assert result.exit_code == 0, result.stderr
    run = tmp_path / "run"
    rows = read_completions(run / "history.sqlite")
    assert len(rows) == 72
    for row in rows:
        assert row["reward"] == pytest.approx(0.5 * row["parts"]["length"] + row["parts"]["judge"])
    # Of 72 completions some are alike: those are asked for once.
    asked = len(judge.asked)
    assert 0 < asked == sum(usage(run, "calls")) == len(set(questions(judge.asked)))
    assert sum(usage(run, "calls")) + sum(usage(run, "cached")) == 72
    assert sum(usage(run, "cost")) == pytest.approx((100 * 1 + 10 * 2) * asked / 1e6)
    assert f"judge: calls {asked}, cached {72 - asked}, failed 0" in result.stderr
    assert all(one.headers["Authorization"] == "Bearer sk-very-secret" for one in judge.asked)
    assert not any(b"sk-very-secret" in content for content in files_in(tmp_path).values())
    assert "sk-very-secret" not in result.stdout + result.stderr


def test_a_second_run_with_a_copy_of_the_answers_asks_nothing(tmp_path: Path, judge: JudgeServer) -> None:
    assert run_of(tmp_path / "one", judge).exit_code == 0
    asked = len(judge.asked)
    (tmp_path / "two" / "run").mkdir(parents=True)
    shutil.copy(tmp_path / "one" / "run" / "judge.sqlite", tmp_path / "two" / "run")
    assert run_of(tmp_path / "two", judge).exit_code == 0
    assert len(judge.asked) == asked
    assert recorded(tmp_path / "one" / "run") == recorded(tmp_path / "two" / "run")
    assert sum(usage(tmp_path / "two" / "run", "cached")) == 72


def test_a_completion_that_is_not_scored_gives_no_signal_and_never_zero(
    tmp_path: Path, judge: JudgeServer
) -> None:
    # Half of the questions get nonsense; a score of 1, which would be 0, is never given.
    def half(asked: Asked) -> Answer | str:
        if len(asked.text) % 2:
            return Answer("mu") if len(asked.text) % 4 == 1 else Answer(status=400)
        return '{"score": 10}'

    judge.behaviour = half
    assert run_of(tmp_path, judge, max_failure_share=1).exit_code == 0
    run = tmp_path / "run"
    rows = read_completions(run / "history.sqlite")
    missing = [row for row in rows if row["reward"] is None]
    assert 10 < len(missing) < 62
    assert {row["advantage"] for row in missing} == {0.0}
    assert {row["parts"].get("judge") for row in missing} == {None}
    assert {row["parts"]["judge"] for row in rows if row["reward"] is not None} == {1.0}
    assert sum(usage(run, "failed")) == sum(line["missing_rewards"] for line in metrics(run)) == len(missing)
    assert sum(group.n for group in read_groups(run / "history.sqlite")) == 72 - len(missing)


def test_a_judge_that_goes_stops_the_run_which_goes_on_when_it_is_back(
    tmp_path: Path, judge: JudgeServer
) -> None:
    assert run_of(tmp_path / "whole", judge, failure_window=10).exit_code == 0
    whole = recorded(tmp_path / "whole" / "run")
    asked_by = [sum(usage(tmp_path / "whole" / "run", "calls")[:step]) for step in range(7)]
    # It goes in step 3 of 6, before the first regular checkpoint.
    last, judge.asked = asked_by[2] + 2, []
    judge.behaviour = lambda asked: by_length(asked) if asked.number < last else DOWN
    folder = tmp_path / "broken"
    result = run_of(folder, judge, failure_window=10)
    assert result.exit_code == 1
    # More than half of ten; of the requests in flight, any may be the one that is told.
    assert re.search(rf"judge 'judge' at {judge.url} failed on ([6-9]|10) of the last ", result.stderr)
    assert "the last time: 503 Service Unavailable: out of memory" in result.stderr
    assert "right and run the same command again" in result.stderr
    assert "Traceback" not in result.stderr
    assert steps_in(folder / "run") == ["step-000002"]
    assert [line["step"] for line in metrics(folder / "run")] == [1, 2]
    assert "failed" in result.stderr.split("judge: calls")[1]
    scored = set(questions(judge.asked[:last]))
    judge.asked, judge.behaviour = [], by_length
    again = run_of(folder, judge, failure_window=10)
    assert again.exit_code == 0, again.stderr
    assert again.stdout.startswith("resumed from step 2\n")
    assert scored.isdisjoint(questions(judge.asked))
    assert recorded(folder / "run") == whole


def test_a_judge_that_was_never_there_stops_the_run_at_its_first_step(
    tmp_path: Path, judge: JudgeServer
) -> None:
    judge.behaviour = lambda asked: DOWN
    result = run_of(tmp_path, judge)
    assert result.exit_code == 1
    assert f"judge 'judge' at {judge.url} does not answer, after 2 attempts: 503" in result.stderr
    assert "Start it, or correct base_url" in result.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()
    judge.behaviour = by_length
    assert run_of(tmp_path, judge).exit_code == 0


def test_a_judge_that_never_gives_a_score_stops_a_run_however_short(
    tmp_path: Path, judge: JudgeServer
) -> None:
    judge.behaviour = lambda asked: Answer(status=400, raw=b"no such model")
    result = run_of(tmp_path, judge, max_failure_share=1)
    assert result.exit_code == 1
    assert re.search(r"to any of \d+ questions: \d+ x 400 Bad Request: no such model", result.stderr)
    assert "finished" not in result.stdout
    assert not (tmp_path / "run" / "adapter").exists()
    # What fails beside scores is told at the end.
    judge.behaviour = lambda asked: "mu" if len(asked.text) % 2 else by_length(asked)
    result = run_of(tmp_path, judge, max_failure_share=1)
    assert result.exit_code == 0
    assert re.search(r"judge: \d+ questions have no answer .* it said 'mu'", result.stderr)


def test_after_a_kill_nothing_is_asked_twice(tmp_path: Path, judge: JudgeServer) -> None:
    assert run_of(tmp_path / "whole", judge).exit_code == 0
    whole = recorded(tmp_path / "whole" / "run")
    asked_by = [sum(usage(tmp_path / "whole" / "run", "calls")[:step]) for step in range(7)]
    # In step 6, after the checkpoint of step 4, it hangs.
    last, over, judge.asked = asked_by[5], threading.Event(), []
    judge.behaviour = lambda asked: Answer(
        by_length(asked), after=lambda: over.wait(PATIENCE) if asked.number >= last else None
    )
    folder = tmp_path / "killed"
    process = Process(tmp_path, "train", recipe_for(folder, judge), "--run-dir", folder / "run")
    process.wait_until(lambda: len(judge.asked) > last)
    process.send(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    over.set()
    before, judge.asked, judge.behaviour = judge.asked, [], by_length
    again = run_of(folder, judge)
    assert again.stdout.startswith("resumed from step 4\n")
    assert set(questions(before[:last])).isdisjoint(questions(judge.asked))
    assert recorded(folder / "run") == whole
    # Step 5 is made again without a question.
    assert usage(folder / "run", "calls")[4] == 0


def test_an_evaluation_asks_the_judge_too(tmp_path: Path, judge: JudgeServer) -> None:
    assert run_of(tmp_path, judge).exit_code == 0
    before = len(judge.asked)
    result = pgrpo("eval", tmp_path / "run", "--set", "eval.num_completions=2")
    assert result.exit_code == 0, result.stderr
    asked = len(judge.asked) - before
    assert asked > 0
    assert f"judge: calls {asked}, cached " in result.stderr


def test_a_judge_on_another_machine_needs_leave(tmp_path: Path, judge: JudgeServer) -> None:
    recipe = recipe_for(tmp_path, judge, base_url="https://judge.example.org/v1")
    result = pgrpo("train", recipe, "--run-dir", tmp_path / "run")
    assert result.exit_code == 2
    assert "sends prompts and completions to judge.example.org" in result.stderr
    assert "add --allow-host judge.example.org" in result.stderr
