"""How many requests a judge gets at once, that none comes twice, and what they cost."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.errors import PathError, RewardError
from pgrpo_cli.rewards.base import BuildContext
from pgrpo_cli.rewards.judge.reward import Judge, build_judge
from pgrpo_cli.rewards.reward_sum import usage_sentences
from tests.support.judge import Answer, Asked, by_length, echo, judged, missing, values
from tests.support.rewards import PATIENCE, completions, until

pytestmark = pytest.mark.filterwarnings("error")


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
    server = serve(lambda a: "mu" if echo(a) == "x" else "10")
    assert missing(values(build_judge(server.section(), context), ["x", "y"])) == [True, False]
    server.behaviour = lambda a: "10"
    assert values(build_judge(server.section(), context), ["x"]) == [1.0]


def test_scores_are_kept_in_the_run_directory_and_nowhere_else(serve: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    context = BuildContext(tmp_path, False, run_dir=tmp_path / "run")
    values(build_judge(serve(by_length).section(), context), ["x"])
    values(build_judge(serve(by_length).section(), BuildContext(tmp_path, False)), ["x"])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "run" / "judge.sqlite"]


def test_a_link_in_the_run_directory_is_not_followed(serve: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "judge.sqlite").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PathError, match=r"judge\.sqlite is a link"):
        build_judge(serve(by_length).section(), BuildContext(tmp_path, False, run_dir=tmp_path / "run"))
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_that_cannot_be_used_shows_before_anything_is_asked(serve: Any, tmp_path: Path) -> None:
    (tmp_path / "judge.sqlite").write_text("no database" * 100)
    with pytest.raises(RewardError, match="not a database"):
        build_judge(serve(by_length).section(), BuildContext(tmp_path, False, run_dir=tmp_path))


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


@contextmanager
def priced(serve: Any, **section: Any) -> Iterator[Judge]:
    price = {"input": 3, "output": 12}
    yield Judge(serve(echo).section(price_per_million_tokens=price, **section), None, None)


LIMIT = {"error": {"message": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."}}


def test_a_server_that_wants_the_limit_by_another_name_gets_it(serve: Any) -> None:
    def answer(asked: Asked) -> Answer | str:
        return "10" if "max_tokens" not in asked.body else Answer(raw=json.dumps(LIMIT).encode(), status=400)

    server = serve(answer)
    assert judged(server, "a", "b", "c", max_tokens=9, concurrency=1) == [1.0] * 3
    # The first request is made twice, the others know.
    assert [asked.body.get("max_completion_tokens") for asked in server.asked] == [None, 9, 9, 9]
    # One that takes neither is no endless loop.
    server = serve(lambda a: Answer(raw=json.dumps(LIMIT).encode(), status=400))
    with pytest.raises(RewardError, match=r"1 x 400 Bad Request: .*Unsupported parameter"):
        judged(server, "x")
    assert len(server.asked) == 2


def test_without_a_limit_none_is_sent(serve: Any) -> None:
    server = serve(lambda a: "10" if echo(a) == "fine" else Answer("1", finish_reason="length"))
    judge = Judge(server.section(max_tokens=None), None, None)
    assert missing(values(judge, ["fine", "x"])) == [False, True]
    assert not any("max_tokens" in asked.body for asked in server.asked)
    assert "cut off at the server's own limit; set max_tokens" in judge.complaints()[0]


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
    judge = Judge(serve(lambda a: "10" if echo(a) == "fine" else "mu").section(), None, None)
    values(judge, ["fine", "x"])
    assert judge.usage() == {"calls": 3, "cached": 0, "failed": 1, "input_tokens": 300, "output_tokens": 30}


@pytest.mark.parametrize("tokens", ["100", "100.0", '"100"', "1e2"])
def test_tokens_are_counted_however_the_server_writes_them(serve: Any, tokens: str) -> None:
    raw = f'{{"choices": [{{"message": {{"content": "10"}}}}], "usage": {{"prompt_tokens": {tokens}}}}}'
    judge = Judge(serve(lambda a: Answer(raw=raw.encode())).section(), None, None)
    assert values(judge, ["x"]) == [1.0]
    assert judge.usage()["input_tokens"] == 100


@pytest.mark.parametrize(
    "tokens", ['"many"', "-1", "null", "[1]", "1e13", "1e400", "NaN", '"nan"', "1" + "0" * 400]
)
def test_a_server_that_counts_nonsense_counts_nothing(serve: Any, tokens: str) -> None:
    raw = f'{{"choices": [{{"message": {{"content": "10"}}}}], "usage": {{"prompt_tokens": {tokens}}}}}'
    judge = Judge(serve(lambda a: Answer(raw=raw.encode())).section(), None, None)
    assert values(judge, ["x"]) == [1.0]
    assert judge.usage()["input_tokens"] == 0
