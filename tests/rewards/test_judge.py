"""A judge behind a real HTTP server: what it is asked, what becomes of its answers, and of its failures."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.errors import RecipeError, RewardError
from pgrpo_cli.recipe.reward_judge import JudgeReward
from pgrpo_cli.rewards.base import BuildContext, Completion, Score
from pgrpo_cli.rewards.build import build_rewards
from pgrpo_cli.rewards.judge import Judge, build_judge
from pgrpo_cli.rewards.judge_client import backoff, is_this_machine
from pgrpo_cli.rewards.usage import usage_sentences
from tests.support.judge import Answer, Asked, Behaviour, JudgeServer, by_length, judge_server
from tests.support.rewards import PATIENCE, completions, scored, summed, threads_left, until

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def serve() -> Iterator[Any]:
    """Starts a judge that behaves as it is told; at the end no thread of a reward is left."""
    running = []

    def start(behaviour: Behaviour) -> JudgeServer:
        running.append(judge_server(behaviour))
        return running[-1].__enter__()

    yield start
    for server in running:
        server.__exit__(None, None, None)
    assert threads_left() == []


def values(judge: Judge, texts: Sequence[str], **options: Any) -> list[float]:
    return [score.value for score in scored(summed(judge), completions(*texts), **options)]


def judged(server: JudgeServer, *texts: str, **section: Any) -> list[float]:
    """What a judge with that section gives to completions."""
    return values(Judge(server.section(**section), None, None), texts)


def echo(asked: Asked) -> str:
    """Scores as the answer says, which stands between the tags of the default rubric."""
    return asked.text.split("<answer>\n")[1].split("\n</answer>")[0]


def missing(found: Sequence[float]) -> list[bool]:
    return [math.isnan(value) for value in found]


# Questions and answers


def test_scores_are_mapped_to_the_unit_interval(serve: Any) -> None:
    # (1 - 1) / 9, (10 - 1) / 9, (5.5 - 1) / 9
    assert judged(serve(echo), "1", "10", "5.5") == [0.0, 1.0, 0.5]


def test_raw_scores_stay_as_they_are(serve: Any) -> None:
    server = serve(echo)
    assert judged(server, "-2", "3", scale=(-2, 3), raw=True) == [-2.0, 3.0]
    assert Judge(server.section(scale=(-2, 3), raw=True), None, None).value_range == (-2, 3)
    assert Judge(server.section(scale=(-2, 3)), None, None).value_range == (0, 1)


def test_the_score_is_recorded_as_a_part(serve: Any) -> None:
    judge = Judge(serve(lambda a: "10" if "good" in a.text else "?").section(), None, None)
    good, bad = scored(summed(judge), completions("good", "bad"))
    assert good == Score(1.0, {"r0": 1.0})
    assert math.isnan(bad.value)
    assert bad.parts == {}


RUBRIC = (
    "{{ prompt }}|{{ completion }}|{{ preference_group }}|{{ preference_group_rubric }}|"
    "{{ columns.user }}|{% if reference is defined %}{{ reference }}{% else %}none{% endif %}"
)


def test_the_rubric_sees_the_completion_and_its_row(serve: Any) -> None:
    server = serve(by_length)
    section = server.section(rubric=RUBRIC, preference_group_rubrics={"é": "Be brief."}, concurrency=1)
    rows = [
        Completion("0", "é", "Ask?", "Answer.", {"user": 7, "reference": "Gold"}),
        Completion("1", "plain", "Ask?", "Half a pair: \ud83d", {"user": [1]}),
    ]
    scored(summed(Judge(section, None, None)), rows)
    assert [asked.text for asked in server.asked] == [
        "Ask?|Answer.|é|Be brief.|7|Gold",
        "Ask?|Half a pair: ?|plain||[1]|none",
    ]


def test_what_is_asked_is_what_the_recipe_says(serve: Any) -> None:
    server = serve(by_length)
    judged(server, "x")
    judged(
        server, "x", model="big", max_tokens=9, temperature=None, response_format="json_object",
        extra_body={"reasoning_effort": "low"},
    )  # fmt: skip
    plain, full = (dict(asked.body) for asked in server.asked)
    system, _ = plain.pop("messages")
    assert system["role"] == "system"
    assert "from 1 (worst) to 10 (best)" in system["content"]
    assert plain == {"model": "small", "max_tokens": 256, "temperature": 0}
    del full["messages"]
    assert full == {
        "model": "big",
        "max_tokens": 9,
        "response_format": {"type": "json_object"},
        "reasoning_effort": "low",
    }
    assert {asked.path for asked in server.asked} == {"/v1/chat/completions"}


def test_a_rubric_that_cannot_be_written_names_the_prompt(serve: Any) -> None:
    server = serve(by_length)
    with pytest.raises(RewardError, match=r"prompt 0 of preference group 'a': UndefinedError: 'reference'"):
        judged(server, "x", rubric="{{ reference }} {{ completion }}")
    assert server.asked == []


def test_a_rubric_without_bounds_is_stopped(serve: Any) -> None:
    rubric = "{% for a in completion %}{% for b in completion %}{{ completion }}{% endfor %}{% endfor %}"
    with pytest.raises(RewardError, match="longer than 1000000 characters"):
        judged(serve(by_length), "x" * 1000, rubric=rubric)


# The key


def secret(monkeypatch: pytest.MonkeyPatch, value: str = "sk-very-secret") -> str:
    monkeypatch.setenv("JUDGE_KEY", value)
    return value.strip()


def test_the_key_goes_into_the_header_and_nowhere_else(
    serve: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key = secret(monkeypatch, "sk-very-secret\n")
    # A server that repeats the key, in an answer that is kept and in its refusals.
    server = serve(
        lambda a: (
            Answer(f"Incorrect {key}", status=401)
            if "refuse" in a.text
            else json.dumps({"score": 2, "why": key})
        )
    )
    section = server.section(api_key_env="JUDGE_KEY")
    judge = build_judge(section, BuildContext(tmp_path, False, run_dir=tmp_path))
    assert values(judge, ["fine"]) == [1 / 9]
    with pytest.raises(RewardError) as caught:
        values(judge, ["refuse"])
    assert {asked.headers["Authorization"] for asked in server.asked} == {f"Bearer {key}"}
    assert "Incorrect ***" in str(caught.value)
    assert "Check base_url and model, and the key in JUDGE_KEY." in str(caught.value)
    for said in (str(caught.value), repr(judge), repr(section), json.dumps([a.body for a in server.asked])):
        assert key not in said
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not any(key.encode() in path.read_bytes() for path in files)


def test_without_a_key_no_header_is_sent(serve: Any) -> None:
    server = serve(by_length)
    judged(server, "x")
    assert "Authorization" not in server.asked[0].headers


@pytest.mark.parametrize(
    ("value", "said"), [(None, "is not set"), ("", "is not set"), ("sk\tx", "no key has")]
)
def test_a_key_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, value: str | None, said: str) -> None:
    if value is None:
        monkeypatch.delenv("JUDGE_KEY", raising=False)
    else:
        monkeypatch.setenv("JUDGE_KEY", value)
    section = JudgeReward(base_url="http://localhost", model="m", api_key_env="JUDGE_KEY")
    with pytest.raises(RecipeError, match=f"JUDGE_KEY .*{said}"):
        build_judge(section, BuildContext(Path(), False))


# Where it goes


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("127.0.0.1", True), ("127.8.8.8", True), ("localhost", True), ("a.localhost", True), ("::1", True),
        ("0.0.0.0", False), ("10.0.0.1", False), ("example.org", False), ("localhost.example.org", False),
        ("127.0.0.1.example.org", False), ("::ffff:10.0.0.1", False),
    ],
)  # fmt: skip
def test_which_hosts_are_this_machine(host: str, here: bool) -> None:
    assert is_this_machine(host) is here


def test_another_machine_must_be_allowed_by_name() -> None:
    section = JudgeReward(base_url="https://Judge.example.org/v1", model="m")
    with pytest.raises(RecipeError) as caught:
        build_rewards([section], Path(), allow_code=True)
    assert "sends prompts and completions to judge.example.org" in str(caught.value)
    assert "add --allow-host judge.example.org" in str(caught.value)
    with pytest.raises(RecipeError):
        build_rewards([section], Path(), allow_code=True, allowed_hosts=["example.org"])
    assert build_rewards([section], Path(), allow_code=False, allowed_hosts=["judge.Example.org"]).terms


def test_a_redirect_is_not_followed(serve: Any) -> None:
    elsewhere = serve(by_length)
    server = serve(lambda a: Answer(status=307, headers={"Location": elsewhere.url}))
    with pytest.raises(RewardError, match=f"refuses requests: 307: it redirects to {elsewhere.url}"):
        judged(server, "x")
    assert elsewhere.asked == []
    assert len(server.asked) == 1


def test_a_judge_here_is_asked_without_a_proxy(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, server = serve(by_length), serve(echo)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.server_port}")
    assert judged(server, "10") == [1.0]
    assert proxy.asked == []


# Answers without a score


def test_nonsense_gets_one_reminder(serve: Any) -> None:
    server = serve(lambda a: "10" if a.is_reminder else "Brilliant!")
    assert judged(server, "x") == [1.0]
    first, again = (asked.body["messages"] for asked in server.asked)
    assert again[:2] == first
    assert again[2] == {"role": "assistant", "content": "Brilliant!"}
    assert "cannot be used: it holds no score" in again[3]["content"]


WRONG = {
    "words": "Brilliant!",
    "empty": "",
    "null": None,
    "cut JSON": '{"score": 1',
    "off the scale": "11",
    "a scale of its own": "70/100",
}


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG)
def test_nonsense_twice_is_no_score_and_never_zero(serve: Any, answer: str | None) -> None:
    server = serve(lambda a: Answer(answer))
    judge = Judge(server.section(), None, None)
    assert missing(values(judge, ["x"])) == [True]
    assert len(server.asked) == 2
    assert judge.usage()["failed"] == 1


def test_an_answer_cut_off_is_no_score(serve: Any) -> None:
    # It may have been about to be 10.
    server = serve(lambda a: Answer("Score: 1", finish_reason="length"))
    assert missing(judged(server, "x")) == [True]
    assert "cut off at 256 tokens" in server.asked[1].body["messages"][3]["content"]


def test_half_of_the_answers_may_be_nonsense(serve: Any) -> None:
    server = serve(lambda a: "mu" if int(echo(a)) % 2 else "10")
    found = judged(server, *map(str, range(40)))
    assert found[::2] == [1.0] * 20
    assert missing(found[1::2]) == [True] * 20


def test_no_failure_is_ever_a_number(serve: Any) -> None:
    # Whatever goes wrong, in turn: a failure comes out as NaN, and a score of 0 only where the judge gave 1.
    troubles = [
        Answer("?"), Answer(None), Answer(raw=b"{"), Answer(raw=b""), Answer(raw=b"null"), Answer(raw=b"[]"),
        Answer(raw=b'{"choices": []}'), Answer(raw=b'{"choices": [{"message": {"content": 0}}]}'),
        Answer(raw=b'{"error": {"message": "0"}}'), Answer("0", status=500), Answer("0", status=400),
        Answer("0", status=429), Answer(hangs_up=True), Answer("0"), Answer("0/10"), Answer('{"score": ""}'),
        Answer(raw=b"\xff\xfe0"), Answer(raw=b"[" * 100_000), Answer(status=204, raw=b""),
    ]  # fmt: skip
    server = serve(lambda a: troubles[int(echo(a))] if int(echo(a)) < len(troubles) else "1")
    judge = Judge(server.section(retries=1, max_failure_share=1, concurrency=1), None, None)
    # The first is answered, so that what follows is no judge that was never there.
    found = values(judge, ["99", *map(str, range(len(troubles)))])
    assert found[0] == 0.0
    assert missing(found[1:]) == [True] * len(troubles)
    assert judge.usage()["failed"] == len(troubles)


# Requests that fail


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
    server = serve(lambda a: Answer(status=429, headers={"Retry-After": "1"}) if a.number == 0 else "10")
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


@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_a_judge_that_refuses_stops_the_run_without_another_try(serve: Any, status: int) -> None:
    server = serve(
        lambda a: "10" if a.number == 0 else Answer(status=status, raw=b'{"error":\n "no such model"}')
    )
    with pytest.raises(RewardError, match=f'refuses requests: {status} .*: {{"error": "no such model"}}'):
        judged(server, "x", "y", concurrency=1)
    assert len(server.asked) == 2


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
    assert "failed on 3 of the last 8 completions (max_failure_share is 0.25 of 8)" in str(caught.value)
    assert "the last time: 400 Bad Request: overloaded" in str(caught.value)
    assert "scores so far are kept" in str(caught.value)


def test_answers_without_a_score_count_as_failures(serve: Any) -> None:
    server = serve(lambda a: "mu")
    with pytest.raises(RewardError, match=r"on 3 of the last 3 .* its answer cannot be used: it holds no"):
        judged(server, *"abc", failure_window=4, concurrency=1)


# At once, and once only


def test_no_more_requests_than_allowed_are_in_flight(serve: Any) -> None:
    def wait(asked: Asked) -> Answer:
        # The first three wait for each other: there are three at once. More would come while each one lasts.
        return Answer("10", after=lambda: together.wait(PATIENCE) if asked.number < 3 else time.sleep(0.05))

    together = threading.Barrier(3)
    server = serve(wait)
    judge = Judge(server.section(concurrency=3), None, None)
    assert values(judge, [str(i) for i in range(24)], batch=8) == [1.0] * 24
    assert server.most_in_flight == 3


def test_what_was_asked_is_not_asked_again(serve: Any, tmp_path: Path) -> None:
    server, texts = serve(by_length), ["a", "bb", "ccc", "a"]
    context = BuildContext(tmp_path, False, run_dir=tmp_path)
    first = build_judge(server.section(), context)
    found = values(first, texts)
    # The same completion twice at once is one question.
    assert first.usage() == {"calls": 3, "cached": 1, "failed": 0, "input_tokens": 300, "output_tokens": 30}
    again = build_judge(server.section(), context)
    assert values(again, texts) == found
    assert again.usage()["calls"] == 0
    assert again.usage()["cached"] == 4
    assert len(server.asked) == 3
    # Another question is another matter: a key of the request changed, or its address.
    values(build_judge(server.section(model="big"), context), ["a"])
    values(build_judge(server.section(base_url=f"{server.url}/"), context), ["a"])
    values(build_judge(server.section(base_url=server.url.replace("127.0.0.1", "localhost")), context), ["a"])
    assert len(server.asked) == 5


def test_failures_are_asked_again(serve: Any, tmp_path: Path) -> None:
    context = BuildContext(tmp_path, False, run_dir=tmp_path)
    server = serve(lambda a: "mu")
    assert missing(values(build_judge(server.section(), context), ["x"])) == [True]
    server.behaviour = lambda a: "10"
    assert values(build_judge(server.section(), context), ["x"]) == [1.0]


def test_a_cache_of_its_own_starts_at_the_recipe(serve: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    context = BuildContext(tmp_path, False, run_dir=tmp_path / "run")
    values(build_judge(serve(by_length).section(cache="mine.sqlite"), context), ["x"])
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["mine.sqlite"]
    assert list((tmp_path / "run").iterdir()) == []


def test_a_cache_that_cannot_be_used_shows_before_anything_is_asked(serve: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.sqlite").write_text("no database" * 100)
    with pytest.raises(RewardError, match="not a database"):
        build_judge(serve(by_length).section(cache="mine.sqlite"), BuildContext(tmp_path, False))


def test_two_evaluations_of_one_judge_have_a_loop_each(serve: Any, tmp_path: Path) -> None:
    judge = build_judge(serve(echo).section(), BuildContext(tmp_path, False, run_dir=tmp_path))
    assert [values(judge, [text]) for text in ("1", "10", "1")] == [[0.0], [1.0], [0.0]]
    assert judge.usage()["calls"] == 2


def test_a_run_that_stops_cancels_what_is_asked(serve: Any) -> None:
    waiting, over = threading.Event(), threading.Event()

    def hang(asked: Asked) -> str:
        waiting.set()
        over.wait(PATIENCE)
        return "10"

    judge = Judge(serve(hang).section(), None, None)

    async def stop() -> None:
        call = asyncio.create_task(judge(completions("x")))
        await asyncio.to_thread(waiting.wait, PATIENCE)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(stop())
    over.set()


def test_requests_that_fail_after_the_run_has_stopped_are_quiet(serve: Any) -> None:
    judge = Judge(serve(lambda a: Answer(status=500)).section(concurrency=1), None, None)
    complaints: list[dict[str, Any]] = []

    async def fail() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        with pytest.raises(RewardError):
            await judge(completions("x", "y", "z"))
        # This one, and the one that keeps the connections open.
        await until(lambda: len(asyncio.all_tasks()) == 2)
        gc.collect()

    asyncio.run(fail())
    assert complaints == []


# What it used


@contextmanager
def priced(serve: Any, **section: Any) -> Iterator[Judge]:
    price = {"input": 3, "output": 12}
    yield Judge(serve(echo).section(price_per_million_tokens=price, **section), None, None)


def test_tokens_cost_what_the_recipe_says(serve: Any) -> None:
    with priced(serve) as judge:
        values(judge, ["10", "1"])
        # (2 · 100 · 3 + 2 · 10 · 12) / 10⁶
        assert judge.usage()["cost"] == pytest.approx(0.00084)
        assert usage_sentences({"judge": judge.usage()}) == [
            "judge: calls 2, cached 0, failed 0, input tokens 200, output tokens 20, cost 0.0008"
        ]
    assert usage_sentences({"judge": {"calls": 0}}) == []


def test_unusable_answers_are_paid_for_too(serve: Any) -> None:
    judge = Judge(serve(lambda a: "mu").section(), None, None)
    values(judge, ["x"])
    assert judge.usage() == {"calls": 2, "cached": 0, "failed": 1, "input_tokens": 200, "output_tokens": 20}


@pytest.mark.parametrize("tokens", ['"many"', "-1", "null", "[1]", "1e3"])
def test_a_server_that_counts_nonsense_counts_nothing(serve: Any, tokens: str) -> None:
    raw = f'{{"choices": [{{"message": {{"content": "10"}}}}], "usage": {{"prompt_tokens": {tokens}}}}}'
    judge = Judge(serve(lambda a: Answer(raw=raw.encode())).section(), None, None)
    assert values(judge, ["x"]) == [1.0]
    assert judge.usage()["input_tokens"] == 0
