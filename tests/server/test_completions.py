"""OpenAI's interface, asked by OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import torch

from pgrpo_cli.conversation.speaker import Speaker
from pgrpo_cli.data.conditioning.presets import group_preset
from pgrpo_cli.server import completions
from tests.support.serving import served

QUESTION = [{"role": "user", "content": "often 3"}]


def said(client: openai.OpenAI, model: str, messages: Any = QUESTION, **options: Any) -> str:
    choice = client.chat.completions.create(model=model, messages=messages, **options).choices[0]
    return choice.message.content or ""


def direct(speaker: Speaker, run: Path, group: str | None, messages: Any = QUESTION, **options: Any) -> str:
    """The same answer without a server."""
    before: Any = [{"role": "system", "content": "Be brief."}]
    if group is not None:
        before = list(group_preset(run, speaker.recipe, group).messages)
    options.setdefault("temperature", speaker.recipe.eval.conversation_temperature)
    return speaker.ask([*before, *messages], **options).read()


def test_models_are_the_base_the_run_and_the_run_as_each_preference_group(client: openai.OpenAI) -> None:
    names = ["base", "run", "run@often", "run@seldom", "run@é"]
    assert [model.id for model in client.models.list()] == names
    assert client.models.retrieve("run@é").id == "run@é"
    with pytest.raises(openai.NotFoundError, match="did you mean 'run@often'"):
        client.models.retrieve("run@oftn")


@pytest.mark.parametrize("group", ["often", "seldom", "é", None])
def test_an_answer_is_what_the_model_says_when_it_is_told_who_asks(
    client: openai.OpenAI, speaker: Speaker, run: Path, group: str | None
) -> None:
    model = "run" if group is None else f"run@{group}"
    assert said(client, model, seed=5) == direct(speaker, run, group, seed=5)
    base = "base" if group is None else f"base@{group}"
    assert said(client, base, seed=5) == direct(speaker, run, group, seed=5, which="base")


def test_a_system_message_of_the_client_goes_on_after_the_groups_and_replaces_the_recipes(
    client: openai.OpenAI, speaker: Speaker
) -> None:
    messages = [{"role": "system", "content": "Rhyme."}, *QUESTION]
    of_group = "Be brief.\n\nAbout the user: they write often\n\nRhyme."
    usual = speaker.recipe.eval.conversation_temperature
    asked = [{"role": "system", "content": of_group}, *QUESTION]
    expected = speaker.ask(asked, seed=1, temperature=usual).read()
    assert said(client, "run@often", messages, seed=1) == expected
    plain = speaker.ask(messages, seed=1, temperature=usual).read()
    assert said(client, "run", messages, seed=1) == plain
    developer = [{"role": "developer", "content": [{"type": "text", "text": "Rhyme."}]}, *QUESTION]
    assert said(client, "run", developer, seed=1) == plain


def test_sampling_is_that_of_the_request(client: openai.OpenAI, speaker: Speaker, run: Path) -> None:
    options = {"seed": 3, "temperature": 0.5, "top_p": 0.8}
    found = said(client, "run", max_completion_tokens=30, max_tokens=5, **options)
    assert found == direct(speaker, run, None, max_tokens=30, **options)
    greedy = {said(client, "run", seed=seed, temperature=0) for seed in range(3)}
    assert greedy == {direct(speaker, run, None, temperature=0)}
    # Without a seed each answer is drawn anew: 12 tokens of 259, five times, are not the same by chance.
    assert len({said(client, "run", max_tokens=12, temperature=1) for _ in range(5)}) > 1


def test_three_groups_stream_in_parallel_and_each_hears_its_own(
    client: openai.OpenAI, speaker: Speaker, run: Path
) -> None:
    def streamed(group: str) -> tuple[str, Any, Any]:
        stream = client.chat.completions.create(
            model=f"run@{group}", messages=QUESTION, seed=2, max_tokens=60, stream=True,
            stream_options={"include_usage": True},
        )  # type: ignore[call-overload]  # fmt: skip
        chunks = list(stream)
        assert {chunk.id for chunk in chunks} == {chunks[0].id}
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        return text, chunks[-2].choices[0].finish_reason, chunks[-1].usage

    groups = ["often", "seldom", "é"]
    with ThreadPoolExecutor(3) as pool:
        found = dict(zip(groups, pool.map(streamed, groups), strict=True))
    for group, (text, reason, usage) in found.items():
        assert text == direct(speaker, run, group, seed=2, max_tokens=60)
        assert reason in ("stop", "length")
        assert usage.completion_tokens == 60 if reason == "length" else usage.completion_tokens < 60


def test_tokens_are_counted_and_the_limit_is_a_reason(client: openai.OpenAI, speaker: Speaker) -> None:
    answer = client.chat.completions.create(model="run", messages=QUESTION, seed=2, max_tokens=3)  # type: ignore[call-overload]
    text = speaker.rendered([{"role": "system", "content": "Be brief."}, *QUESTION])
    prompt = len(speaker.policy.tokenizer(text, add_special_tokens=False)["input_ids"])
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (prompt, 3)
    assert answer.usage.total_tokens == prompt + 3
    assert answer.choices[0].finish_reason == "length"
    assert answer.system_fingerprint == "run-step-6"


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_text_ends_the_answer_before_itself(
    client: openai.OpenAI, speaker: Speaker, run: Path, stream: bool
) -> None:
    whole = direct(speaker, run, None, seed=2, max_tokens=200)
    stop = whole[20:24]
    found = client.chat.completions.create(
        model="run", messages=QUESTION, seed=2, max_tokens=200, stop=["never said", stop], stream=stream
    )  # type: ignore[call-overload]
    if stream:
        chunks = list(found)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        reason = chunks[-1].choices[0].finish_reason
    else:
        text, reason = found.choices[0].message.content, found.choices[0].finish_reason
        # It did not go on computing what nobody hears.
        assert found.usage.completion_tokens < 200
    assert (text, reason) == (whole[: whole.index(stop)], "stop")


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"model": "rum"}, 404, "did you mean 'run'?"),
        ({"n": 2}, 400, "n is not supported; only 1 is"),
        ({"logprobs": True}, 400, "logprobs is not supported"),
        ({"tools": [{"type": "function"}]}, 400, "tools is not supported"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format is not supported"),
        ({"messages": []}, 400, "at least 1 item"),
        ({"messages": QUESTION * 501}, 400, "at most 500 items"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages.0.role: Input should be 'system'"),
        ({"messages": [*QUESTION, {"role": "assistant", "content": "x"}]}, 400, "the assistant's"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            400,
            "only text is understood",
        ),
        ({"messages": [{"role": "user", "content": "word " * 2500}]}, 400, "the conversation has"),
        ({"temperature": -1}, 400, "temperature: Input should be greater than or equal to 0"),
        ({"temperature": float("nan")}, 400, "temperature"),
        ({"max_tokens": 10**9}, 400, "max_tokens: Input should be less than or equal to 32768"),
        ({"seed": 2**63}, 400, "seed"),
        ({"stop": ["a"] * 5}, 400, "stop"),
    ],
)
def test_what_cannot_be_done_is_refused_in_openais_form(
    url: str, change: dict[str, Any], status: int, says: str
) -> None:
    body = json.dumps({"model": "run", "messages": QUESTION, **change})
    headers = {"Content-Type": "application/json"}
    answer = httpx2.post(f"{url}/v1/chat/completions", content=body, headers=headers)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert says in error["message"]
    assert error["type"] == "invalid_request_error"
    assert set(error) == {"message", "type", "param", "code"}


def test_what_changes_nothing_is_taken(client: openai.OpenAI) -> None:
    extra = {"n": 1, "tools": None, "frequency_penalty": 0, "user": "ana", "something_new": [1]}
    assert said(client, "run", extra_body=extra)


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"\xff", b'{"model": "\\ud800", "messages": []}', b"[" * 10_000]
)
def test_a_body_that_is_no_request_gets_a_message(url: str, body: bytes) -> None:
    answer = httpx2.post(
        f"{url}/v1/chat/completions", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_a_client_that_takes_nothing_of_its_stream_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completions, "SEND_SECONDS", 0.05)
    sent: list[Any] = []
    closed = asyncio.Event()

    async def events() -> AsyncGenerator[str, None]:
        try:
            for number in range(10):
                yield str(number)
        finally:
            closed.set()

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) == 3:
            await asyncio.Event().wait()

    async def run() -> bool:
        await asyncio.wait_for(completions._send_events(events(), send), 5)
        return closed.is_set()

    assert asyncio.run(run())
    # The start, the first event and the one that was not taken; nothing says that the response is complete.
    assert [message.get("body") for message in sent] == [None, b"data: 0\n\n", b"data: 1\n\n"]


@pytest.mark.parametrize("ticks", range(4))
def test_a_stream_that_is_cancelled_ends_also_while_a_message_is_being_sent(ticks: int) -> None:
    sent: list[Any] = []

    async def events() -> AsyncGenerator[str, None]:
        for number in range(100):
            yield str(number)

    async def send(message: Any) -> None:
        sent.append(message)
        await asyncio.sleep(0)

    async def run() -> None:
        stream = asyncio.create_task(completions._send_events(events(), send))
        # As many turns of the event loop, so that it is cancelled before, in and after a message.
        for _ in range(4 + ticks):
            await asyncio.sleep(0)
        stream.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stream

    asyncio.run(run())
    assert len(sent) < 10


def test_an_error_in_the_middle_of_a_stream_reaches_the_client(
    speaker: Speaker, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB.")

    monkeypatch.setattr(speaker, "decode", fail)
    with served(speaker, run) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        stream = client.chat.completions.create(model="run", messages=QUESTION, stream=True)  # type: ignore[call-overload]
        with pytest.raises(openai.APIError, match="does not hold this conversation"):
            list(stream)
        with pytest.raises(openai.InternalServerError, match="does not hold this conversation"):
            said(client, "run")
