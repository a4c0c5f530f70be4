"""Requests to a judge that fail: which are tried again, and when the run stops."""

from __future__ import annotations

import json
import math
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.errors import RewardError
from pgrpo_cli.recipe.rewards import JudgeReward
from pgrpo_cli.rewards.judge.client import backoff
from pgrpo_cli.rewards.judge.reward import Judge
from tests.support.judge import Answer, Asked, echo, judged, missing, values
from tests.support.rewards import PATIENCE, threads_left

pytestmark = pytest.mark.filterwarnings("error")


def test_what_passes_is_tried_again(serve: Any) -> None:
    troubles = [
        Answer(status=500), Answer(status=503), Answer(status=429), Answer(hangs_up=True), Answer(raw=b"{"),
    ]  # fmt: skip
    server = serve(lambda a: troubles[a.number] if a.number < len(troubles) else "10")
    judge = Judge(server.section(retries=5), None, None)
    assert values(judge, ["x"]) == [1.0]
    assert judge.usage()["calls"] == 6
    assert len({json.dumps(asked.body) for asked in server.asked}) == 1


def test_what_will_not_pass_is_not(serve: Any) -> None:
    server = serve(lambda a: Answer(raw=b"too long", status=400) if echo(a) == "x" else "10")
    judge = Judge(server.section(), None, None)
    found = values(judge, ["x", "y"])
    assert missing(found) == [True, False]
    assert judge.usage()["calls"] == 2


def test_a_slow_judge_times_out(serve: Any) -> None:
    late = threading.Event()
    server = serve(lambda a: Answer("10", after=lambda: late.wait(PATIENCE) if echo(a) == "slow" else None))
    try:
        found = judged(server, "quick", "slow", timeout_s=0.3, retries=1, concurrency=1)
    finally:
        late.set()
    assert found[0] == 1.0
    assert math.isnan(found[1])
    assert len(server.asked) == 3


def test_a_reply_that_never_ends_is_cut(serve: Any) -> None:
    server = serve(lambda a: "10" if echo(a) == "x" else Answer(raw=b" " * (5 * 2**20)))
    assert missing(judged(server, "x", "y", concurrency=1)) == [False, True]
    assert len(server.asked) == 2


def test_a_pause_that_the_server_asks_for_holds_every_request(serve: Any) -> None:
    def answer(asked: Any) -> Any:
        if asked.number == 0:
            return Answer(status=429, headers={"Retry-After": "1"})
        # The other request in flight lasts until the client has read of the pause.
        return Answer("10", after=lambda: time.sleep(0.5)) if asked.number == 1 else "10"

    server = serve(answer)
    assert judged(server, *"abcdef", concurrency=2) == [1.0] * 6
    first, *others = (asked.at for asked in server.asked)
    # One request was perhaps on its way already.
    assert sum(at - first < 1 for at in others) <= 1
    assert len(others) == 6


def test_a_date_says_when_too(serve: Any) -> None:
    long_ago = {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}
    server = serve(lambda a: Answer(status=503, headers=long_ago) if a.number == 0 else "10")
    assert judged(server, "x") == [1.0]
    some_day = {"Retry-After": "Wed, 21 Oct 2099 07:28:00 GMT"}
    server = serve(lambda a: "10" if echo(a) == "x" else Answer(status=503, headers=some_day))
    assert missing(judged(server, "x", "y", concurrency=1)) == [False, True]
    assert len(server.asked) == 2


def test_pauses_double_with_a_jitter_that_repeats() -> None:
    pauses = [backoff(2.0, "question", attempt) for attempt in range(8)]
    assert pauses == [backoff(2.0, "question", attempt) for attempt in range(8)]
    assert pauses != [backoff(2.0, "another", attempt) for attempt in range(8)]
    # Half to all of 2, 4, 8, 16, 32, and of a minute from then on.
    for pause, longest in zip(pauses, [2, 4, 8, 16, 32, 60, 60, 60], strict=True):
        assert longest / 2 <= pause <= longest
    assert backoff(1e300, "question", 10**9) <= 60


@pytest.mark.parametrize(
    "trouble",
    [Answer(status=500), Answer(hangs_up=True), Answer(raw=b"<html>")],
    ids=["500", "hangs up", "html"],
)
def test_a_judge_that_never_answers_stops_the_run_at_once(serve: Any, trouble: Answer) -> None:
    server = serve(lambda a: trouble)
    with pytest.raises(
        RewardError, match=f"'judge' at {server.url} does not answer, after 3 attempts: "
    ) as caught:
        judged(server, "x", retries=2, max_failure_share=1)
    assert "run the same command again" in str(caught.value)
    assert len(server.asked) == 3


def test_a_judge_that_is_not_there_stops_the_run_at_once() -> None:
    # Nobody listens on port 9 of the loopback.
    section = JudgeReward(base_url="http://127.0.0.1:9", model="m", backoff_s=0.001)
    with pytest.raises(RewardError, match="does not answer, after 5 attempts: ConnectError"):
        values(Judge(section, None, None), ["x"] * 3)
    assert threads_left() == []


@pytest.mark.parametrize(("status", "answered"), [(401, 0), (401, 1), (403, 0), (404, 0), (405, 0)])
def test_a_judge_that_refuses_stops_the_run_without_another_try(
    serve: Any, status: int, answered: int
) -> None:
    server = serve(
        lambda a: "10" if a.number < answered else Answer(status=status, raw=b'{"error":\n "no such model"}')
    )
    with pytest.raises(RewardError, match=f'refuses requests: {status} .*: {{"error": "no such model"}}'):
        judged(server, *"xy"[: answered + 1], concurrency=1)
    assert len(server.asked) == answered + 1


@pytest.mark.parametrize("status", [403, 404, 405])
def test_a_judge_that_refuses_one_completion_has_no_score_for_it(
    serve: Any, tmp_path: Path, status: int
) -> None:
    server = serve(lambda a: Answer(status=status, raw=b"flagged") if echo(a) == "rude" else "10")
    # The second one resumes: all but the refused question are answered from the file.
    for requests in (2, 3):
        judge = Judge(server.section(concurrency=1), tmp_path / "judge.sqlite", None)
        assert missing(values(judge, ["fine", "rude"])) == [False, True]
        assert f"1 x {status}" in judge.complaints()[0]
        assert len(server.asked) == requests


def test_failures_stop_the_run_past_the_threshold(serve: Any) -> None:
    # Of 8 at most 0.25 · 8 = 2 may fail: the third of the last eight is too many.
    bad = {2, 3, 20, 21, 22}
    server = serve(lambda a: Answer(status=400, raw=b"overloaded") if int(echo(a)) in bad else "10")
    section = server.section(concurrency=1, failure_window=8, max_failure_share=0.25)
    judge = Judge(section, None, None)
    assert missing(values(judge, list(map(str, range(12))))) == [i in bad for i in range(12)]
    judge = Judge(section, None, None)
    with pytest.raises(RewardError) as caught:
        values(judge, list(map(str, range(30))))
    assert "failed on 3 of the last 8 questions (max_failure_share is 0.25 of 8)" in str(caught.value)
    assert "the last time: 400 Bad Request: overloaded" in str(caught.value)
    assert "Answers are kept" in str(caught.value)


SERVER_SAYS = '{"error": "max_tokens must be below 64"}'


def test_a_judge_that_never_answers_usably_stops_even_a_short_run(serve: Any) -> None:
    # One question, far below the window.
    server = serve(lambda a: Answer(raw=SERVER_SAYS.encode(), status=400))
    with pytest.raises(RewardError) as caught:
        judged(server, "x", max_failure_share=1)
    assert caught.value.message == (
        f"judge 'judge' at {server.url} gave no answer that can be used to any of 1 questions: "
        f"1 x 400 Bad Request: {SERVER_SAYS}"
    )
    assert "run the same command again" in str(caught.value.remedy)


def test_a_judge_that_once_answered_does_not_stop_a_later_list(serve: Any) -> None:
    server = serve(lambda a: "10" if echo(a) == "fine" else "mu")
    judge = Judge(server.section(), None, None)
    assert values(judge, ["fine"]) == [1.0]
    assert missing(values(judge, ["x", "y"])) == [True, True]


def test_failures_are_counted_by_reason_with_the_last_words(serve: Any, tmp_path: Path) -> None:
    def answer(asked: Asked) -> Answer | str:
        text = echo(asked)
        if text == "fine":
            return "10"
        return (
            Answer(raw=text.encode(), status=400) if "refuse" in text else f"I like it: {text} " + "!" * 500
        )

    texts = ["fine", "refuse 1", "refuse 2", "so\n\nmuch"]
    judge = Judge(serve(answer).section(concurrency=1), tmp_path / "judge.sqlite", "sk-key/1")
    assert missing(values(judge, texts)) == [False, True, True, True]
    (said,) = judge.complaints()
    assert said.startswith(
        "judge: 3 questions have no answer that can be used: 2 x 400 Bad Request: refuse 2; "
        "1 x its answer cannot be used: it holds no score: it said 'I like it: so much !!!"
    )
    assert said.endswith("!...'") and len(said) < 600
    # Nothing that failed is a complaint of a judge that answers.
    fine = Judge(serve(lambda a: "10").section(), None, None)
    values(fine, ["x"])
    assert fine.complaints() == []


def test_the_key_is_blotted_out_of_what_is_quoted(serve: Any) -> None:
    def answer(asked: Asked) -> Answer | str:
        if echo(asked) == "fine":
            return "10"
        if echo(asked) == "refuse":
            return Answer(raw=rb'{"key": "sk-a\/b", "again": "sk-a/b"}', status=400)
        return "Your key is sk-a/b"

    judge = Judge(serve(answer).section(concurrency=1), None, "sk-a/b")
    values(judge, ["fine", "refuse", "say"])
    (said,) = judge.complaints()
    assert "sk-a" not in said
    assert said.count("***") == 3


def test_a_judge_with_a_reason_for_each_failure_is_cut_short(serve: Any) -> None:
    def answer(asked: Asked) -> str:
        return "10" if echo(asked) == "fine" else str(100 + int(echo(asked)))

    judge = Judge(serve(answer).section(concurrency=1, max_failure_share=1), None, None)
    values(judge, ["fine", *map(str, range(60))])
    (said,) = judge.complaints()
    assert said.startswith("judge: 60 questions have no")
    assert "57 x something else" in said or "x other reasons" in said
    assert len(said) < 700


def test_answers_without_a_score_count_as_failures(serve: Any) -> None:
    server = serve(lambda a: "mu")
    with pytest.raises(RewardError, match=r"on 3 of the last 3 .* its answer cannot be used: it holds no"):
        judged(server, *"abc", failure_window=4, concurrency=1)
