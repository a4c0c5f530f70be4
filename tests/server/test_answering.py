"""The queue: who waits, who is sent away, and what a client that goes away costs the others."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.conversation.speaker import Speaker
from pgrpo_cli.server.answering import StopSequences
from tests.support.serving import served


def body(number: int, **options: Any) -> dict[str, Any]:
    return {
        "model": "run@often", "messages": [{"role": "user", "content": f"often {number}"}], "seed": number,
        **options,
    }  # fmt: skip


# The likeliest tokens of this model never end an answer; these take many seconds.
LONG = {"temperature": 0, "max_tokens": 1500}


async def answered(client: httpx2.AsyncClient, number: int, **options: Any) -> httpx2.Response:
    return await client.post("/v1/chat/completions", json=body(number, **options))


def test_a_hundred_at_once_are_answered_though_ten_of_them_vanish(speaker: Speaker, run: Path) -> None:
    async def all_of_them(url: str) -> list[str | None]:
        limits = httpx2.Limits(max_connections=100)
        async with httpx2.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
            tasks = [asyncio.create_task(answered(client, number, max_tokens=4)) for number in range(100)]
            await asyncio.sleep(0.5)
            for task in tasks[5::10]:
                # The connection is closed while the request waits or is answered.
                task.cancel()
            found = await asyncio.gather(*tasks, return_exceptions=True)
            (again,) = await asyncio.gather(answered(client, 7, max_tokens=4))
            assert again.json()["choices"] == found[7].json()["choices"]  # type: ignore[union-attr]
        return [
            None if isinstance(each, BaseException) else each.json()["choices"][0]["message"]["content"]
            for each in found
        ]

    with served(speaker, run) as url:
        texts = asyncio.run(all_of_them(url))
    # Some of the ten may have been answered within the half second.
    assert sum(text is None for text in texts) <= 10
    system = {"role": "system", "content": "Be brief.\n\nAbout the user: they write often"}
    usual = speaker.recipe.eval.conversation_temperature
    for number in (0, 1, 42, 99):
        question = {"role": "user", "content": f"often {number}"}
        reply = speaker.ask([system, question], seed=number, max_tokens=4, temperature=usual)
        assert texts[number] == reply.read()


async def filled(client: httpx2.AsyncClient, **options: Any) -> tuple[list[Any], httpx2.Response]:
    """Two long requests that fill a queue of two, and what a third one is told."""
    tasks = [asyncio.create_task(answered(client, n, **LONG, **options)) for n in range(2)]
    await asyncio.sleep(1)
    return tasks, await answered(client, 3)


def test_who_finds_the_queue_full_is_told_when_to_come_back(speaker: Speaker, run: Path) -> None:
    async def third(url: str) -> httpx2.Response:
        async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
            tasks, refused = await filled(client)
            assert not any(task.done() for task in tasks)
            for task in tasks:
                task.cancel()
        return refused

    with served(speaker, run, most_waiting=2) as url:
        refused = asyncio.run(third(url))
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "5"
    assert refused.json()["error"]["type"] == "rate_limit_error"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_place_and_the_model(
    speaker: Speaker, run: Path, stream: bool
) -> None:
    async def vanish(url: str) -> float:
        async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
            tasks, third = await filled(client, stream=stream)
            # One is being answered, the other one waits.
            assert third.status_code == 429
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            started = time.monotonic()
            while (await answered(client, 3)).status_code == 429:
                await asyncio.sleep(0.01)
            return time.monotonic() - started

    with served(speaker, run, most_waiting=2) as url:
        assert asyncio.run(vanish(url)) < 3


def test_others_are_heard_while_an_answer_is_computed(speaker: Speaker, run: Path) -> None:
    async def hear(url: str) -> None:
        async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
            long = asyncio.create_task(answered(client, 1, **LONG))
            await asyncio.sleep(0.5)
            for _ in range(10):
                assert (await client.get("/v1/models")).status_code == 200
            # Had they waited for it, it would be there.
            assert not long.done()
            long.cancel()

    with served(speaker, run) as url:
        asyncio.run(hear(url))


def test_the_server_ends_soon_though_an_answer_is_at_work(speaker: Speaker, run: Path) -> None:
    question = body(1, stream=True, **LONG)
    with served(speaker, run) as url:
        client = httpx2.Client(timeout=60)
        found = client.send(
            client.build_request("POST", f"{url}/v1/chat/completions", json=question), stream=True
        )
        next(found.iter_lines())
        started = time.monotonic()
    # Two seconds of grace, and the end of the token at hand.
    assert time.monotonic() - started < 5


# The pieces of a text, and sequences over the same few letters, so that they meet often.
@given(
    st.lists(st.text("abc", max_size=4), max_size=8),
    st.lists(st.text("abc", min_size=1, max_size=3), max_size=3),
)
def test_stop_sequences_cut_where_the_first_one_begins_however_the_text_comes(
    pieces: list[str], sequences: list[str]
) -> None:
    stops, said = StopSequences(sequences), ""
    for piece in pieces:
        said += stops.take(piece)
        if stops.found:
            break
    else:
        said += stops.rest()
    text = "".join(pieces)
    # As the pieces come, the sequence that is complete first counts; of those, the one that begins first.
    come = ""
    for piece in pieces:
        come += piece
        places = [come.index(sequence) for sequence in sequences if sequence in come]
        if places:
            assert stops.found
            assert said == come[: min(places)]
            return
    assert said == text
