"""OpenAI's interface: the list of models, and answers to conversations, whole or piece by piece.

https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from pgrpo_cli.conversation.speaker import Reply, Speaker

from .answering import AnswerQueue, StopSequences
from .errors import as_api_error
from .requests import ChatRequest
from .voices import Voice, Voices

SEND_SECONDS = 60.0
"""Time that a client has to take a piece of a stream."""


class ModelList:
    """Which models there are."""

    def __init__(self, voices: Voices) -> None:
        self._voices, self._created = voices, int(time.time())

    @property
    def routes(self) -> list[Route]:
        """Where the list and its members are."""
        return [Route("/v1/models", self.all), Route("/v1/models/{model:path}", self.one)]

    async def all(self, request: Request) -> Response:
        """All models that are listed."""
        return JSONResponse({"object": "list", "data": [self._described(v) for v in self._voices.listed]})

    async def one(self, request: Request) -> Response:
        """One of them."""
        return JSONResponse(self._described(self._voices.find(request.path_params["model"])))

    def _described(self, voice: Voice) -> dict[str, Any]:
        return {"id": voice.model, "object": "model", "created": self._created, "owned_by": "pgrpo"}


class Completions:
    """Answers a conversation. What is wrong with a request is said before anything is computed."""

    def __init__(self, speaker: Speaker, voices: Voices, queue: AnswerQueue) -> None:
        self._speaker, self._voices, self._queue = speaker, voices, queue
        self.route = Route("/v1/chat/completions", self, methods=["POST"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, which has a place in the queue until its response ends."""
        asked = ChatRequest.model_validate_json(await Request(scope, receive).body())
        voice = self._voices.find(asked.model)
        with self._queue.place():
            reply = await asyncio.to_thread(self._reply, voice, asked)
            fingerprint = f"{self._speaker.name}-step-{self._speaker.step}"
            answer = _Answer(reply, asked, self._queue, fingerprint)
            if asked.stream:
                await _send_events(answer.events(), send)
            else:
                await JSONResponse(await answer.whole())(scope, receive, send)

    def _reply(self, voice: Voice, asked: ChatRequest) -> Reply:
        usual = self._speaker.recipe.eval.conversation_temperature
        messages = self._voices.messages(voice, [message.as_message() for message in asked.messages])
        return self._speaker.ask(
            messages,
            which=voice.which,
            seed=secrets.randbits(63) if asked.seed is None else asked.seed,
            max_tokens=asked.limit,
            temperature=usual if asked.temperature is None else asked.temperature,
            top_p=asked.top_p,
        )


class _Answer:
    """A reply on its way to a client."""

    def __init__(self, reply: Reply, asked: ChatRequest, queue: AnswerQueue, fingerprint: str) -> None:
        self._reply, self._asked, self._queue = reply, asked, queue
        self._stops = StopSequences(asked.stops)
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": asked.model,
            "system_fingerprint": fingerprint,
        }

    async def whole(self) -> dict[str, Any]:
        """The response in one."""
        async with aclosing(self._said()) as pieces:
            text = "".join([piece async for piece in pieces])
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._reason}
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": self._usage}

    async def events(self) -> AsyncGenerator[str, None]:
        """The response as chunks, `[DONE]` last; an error in the middle is a chunk of its own."""
        try:
            yield self._chunk({"role": "assistant", "content": ""})
            async with aclosing(self._said()) as pieces:
                async for piece in pieces:
                    yield self._chunk({"content": piece})
            yield self._chunk({}, self._reason)
            if self._asked.wants_usage:
                yield json.dumps({**self._chunk_head, "choices": [], "usage": self._usage})
        except Exception as error:
            if (told := as_api_error(error)) is None:
                raise
            yield json.dumps(told.content())
        yield "[DONE]"

    async def _said(self) -> AsyncGenerator[str, None]:
        """The text as far as the client wants it. The reply is read to its end, which knows its tokens."""
        async with aclosing(self._queue.pieces(self._reply)) as pieces:
            async for piece in pieces:
                if said := self._stops.take(piece):
                    yield said
                if self._stops.found:
                    self._reply.stop()
        if rest := self._stops.rest():
            yield rest

    @property
    def _reason(self) -> str:
        return "stop" if self._reply.finished or self._stops.found else "length"

    @property
    def _usage(self) -> dict[str, int]:
        prompt, answer = self._reply.prompt_tokens, self._reply.tokens
        return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}

    @property
    def _chunk_head(self) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk"}

    def _chunk(self, delta: dict[str, str], reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return json.dumps({**self._chunk_head, "choices": [choice]})


async def _send_events(events: AsyncGenerator[str, None], send: Send) -> None:
    """Server-sent events, as they come. A client that takes none for long counts as gone."""
    headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    async with aclosing(events):
        async for event in events:
            body = f"data: {event}\n\n".encode()
            message = {"type": "http.response.body", "body": body, "more_body": True}
            try:
                # Not `wait_for`: before Python 3.12 it swallows a cancellation where the message has been
                # sent just then, and the server would not end.
                async with asyncio.timeout(SEND_SECONDS):
                    await send(message)
            except TimeoutError:
                # A response that does not end closes the connection.
                return
    await send({"type": "http.response.body", "body": b""})
