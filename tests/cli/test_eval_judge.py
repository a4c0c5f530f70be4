"""`pgrpo eval` with `eval.judge`, from the outside: a tiny trained run, a judge behind an HTTP server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from tests.support.evaluated import GROUPS, KEPT, PROMPTS, pgrpo
from tests.support.judge import Answer, Asked, JudgeServer, judge_server, shown_pair
from tests.support.rewards import threads_left


@pytest.fixture
def judge() -> Iterator[JudgeServer]:
    with judge_server(lambda asked: '{"better": 1}') as server:
        yield server
    assert threads_left() == []


def judged(run: Path, judge: JudgeServer, *words: str, **section: Any) -> Result:
    """`pgrpo eval` with a judge that waits next to nothing between attempts."""
    value = {"base_url": judge.url, "model": "small", "backoff_s": 0.001, "retries": 1, **section}
    return pgrpo("eval", run, "--set", f"eval.judge={json.dumps(value)}", *words)


def kept(run: Path) -> dict[str, Any]:
    return json.loads((run / KEPT).read_text())  # type: ignore[no-any-return]


def tuned_answers(run: Path) -> set[str]:
    return {row["text"] for row in kept(run)["rows"] if row["which"] == "tuned"}


def test_a_judge_that_always_prefers_the_first_makes_ties_of_all(run: Path, judge: JudgeServer) -> None:
    result = judged(run, judge, "--json", pairs=2)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["judged"]
    assert found["macro"]["tie"]["mean"] == 1.0
    assert found["macro"]["win"]["mean"] == found["macro"]["loss"]["mean"] == 0.0
    assert found["macro"]["win_rate"]["mean"] == 0.5
    assert len(found["groups"]) == GROUPS and found["macro"]["pairs"] == 2 * PROMPTS
    assert "pairs" not in found
    # Completions that are alike are ties without a question; the order decides about the others.
    different = found["macro"]["contradictions"]
    assert 10 < different <= 2 * PROMPTS
    assert [p["shown_first"] for p in kept(run)["judged"]["pairs"]].count(1.0) == different
    assert f"judge: comparing {2 * PROMPTS} pairs, each in both orders" in result.stderr
    assert "eval.judge: calls " in result.stderr


def test_a_judge_with_a_preference_is_shown_everywhere(run: Path, judge: JudgeServer) -> None:
    tuned = tuned_answers(run) - {row["text"] for row in kept(run)["rows"] if row["which"] == "base"}

    def prefers_tuned(asked: Asked) -> str:
        first, second = (answer in tuned for answer in shown_pair(asked))
        return '{"better": "tie"}' if first == second else f'{{"better": {1 if first else 2}}}'

    judge.behaviour = prefers_tuned
    result = judged(run, judge)
    assert result.exit_code == 0, result.output
    # The completions that were kept are judged; nothing is sampled again.
    assert "holds this evaluation already" in result.stderr and "sampling" not in result.stderr
    macro = kept(run)["judged"]["macro"]
    assert macro["win"]["mean"] > 0.8 and macro["loss"]["mean"] == 0 and macro["contradictions"] == 0
    assert "Tuned against base by the judge small" in result.stdout
    told = " ".join(result.stdout.split())
    assert "The judge small prefers the tuned model: win rate over 7 preference groups" in told
    page = (run / "report.html").read_text()
    assert "Which answer does a judge prefer?" in page and "The judge small prefers the tuned model" in page
    assert kept(run)["recipe"]["eval"]["judge"]["model"] == "small"
    # What it said is kept with the evaluation, and no question is asked twice.
    asked = len(judge.asked)
    again = judged(run, judge)
    assert again.exit_code == 0 and "comparing" not in again.stderr
    assert judged(run, judge, "--fresh").exit_code == 0
    assert len(judge.asked) == asked


def test_without_a_judge_there_is_nothing_of_it(run: Path) -> None:
    result = pgrpo("eval", run)
    assert kept(run)["judged"] is None
    assert "judge" not in result.stdout and "does a judge prefer" not in (run / "report.html").read_text()


def test_failures_are_counted_and_never_ties_or_losses(run: Path, judge: JudgeServer) -> None:
    # Two preference groups get no answer; the others are told apart by length alone.
    def some(asked: Asked) -> Answer | str:
        if '"formal-classical"' in asked.text or '"terse-jazz"' in asked.text:
            return Answer(status=400)
        first, second = shown_pair(asked)
        return '{"better": 1}' if (len(first), first) > (len(second), second) else '{"better": 2}'

    judge.behaviour = some
    result = judged(run, judge, "--json", max_failure_share=1)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["judged"]
    failed = {group: part["failed"] for group, part in found["groups"].items() if part["failed"]}
    assert set(failed) == {"formal-classical", "terse-jazz"}
    assert found["macro"]["failed"] == sum(failed.values())
    for group, count in failed.items():
        assert found["groups"][group]["win_rate"]["n"] == 2 - count
    assert found["macro"]["tie"]["mean"] < 0.2


def test_a_judge_that_is_down_costs_no_completion(run: Path, judge: JudgeServer) -> None:
    shutil.rmtree(run / "eval")
    judge.behaviour = lambda asked: Answer(status=503, raw=b"out of memory")
    result = judged(run, judge)
    assert result.exit_code == 1
    assert f"judge 'eval.judge' at {judge.url} does not answer, after 2 attempts: 503" in result.stderr
    assert "run the same command again" in result.stderr and "Traceback" not in result.stderr
    assert kept(run)["judged"] is None and len(kept(run)["rows"]) == 2 * 2 * PROMPTS
    judge.behaviour = lambda asked: '{"better": "tie"}'
    again = judged(run, judge)
    assert again.exit_code == 0, again.output
    assert "sampling" not in again.stderr
    assert kept(run)["judged"]["macro"]["tie"]["mean"] == 1.0


def test_a_judge_elsewhere_is_refused_before_anything_is_sampled(run: Path) -> None:
    shutil.rmtree(run / "eval")
    section = json.dumps({"base_url": "https://judge.example.org/v1", "model": "small"})
    result = pgrpo("eval", run, "--set", f"eval.judge={section}")
    assert result.exit_code == 2
    assert "eval.judge sends prompts and completions to judge.example.org" in result.stderr
    assert "--allow-host judge.example.org" in result.stderr
    assert not (run / "eval").exists()
