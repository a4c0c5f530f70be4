"""A judge at work: questions become requests, answers numbers, and what was asked once is not asked again.

A question that the judge cannot answer comes out as NaN. It is never 0: a failure would then look like a bad
answer, and a model would learn from it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .judge_access import AnyJudge
from .judge_answer import AnswerForm, Unusable
from .judge_cache import JudgeCache
from .judge_client import JudgeClient, Reply, RequestFailed
from .judge_failures import Failures

_SHOWN = 2000
"""Characters of an unusable answer that the judge is shown again."""


class JudgeSession:
    """A judge at work on the event loop that makes it; what it holds is released when the loop ends."""

    def __init__(
        self,
        section: AnyJudge,
        form: AnswerForm,
        cache_path: Path | None,
        api_key: str | None,
        usage: Counter[str],
        failures: Failures,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._section, self._form, self._usage = section, form, usage
        self._cache = JudgeCache(cache_path) if cache_path else None
        self._client = JudgeClient(section, api_key, usage)
        self._asked: dict[str, asyncio.Task[float]] = {}
        self._failures = failures
        # The end of the loop cancels its tasks: this one then closes what is open.
        self._keeper = asyncio.create_task(self._keep_open())

    async def _keep_open(self) -> None:
        try:
            async with self._client:
                await asyncio.Event().wait()
        finally:
            if self._cache:
                self._cache.close()

    async def number(self, text: str) -> float:
        """The judge's number about a text, NaN where it gives none. A question in flight is not asked again.

        Raises RewardError where the judge has failed too often.
        """
        body = self._body(text)
        question = question_id(self._section.base_url, body)
        kept = self._cache.get(question) if self._cache else None
        if kept is not None:
            self._usage["cached"] += 1
            self._failures.useful = True
            return kept
        task = self._asked.get(question)
        shared = task is not None
        if task is None:
            task = self._asked[question] = asyncio.create_task(self._judged(body, question))
            task.add_done_callback(lambda done: self._answered(question, done))
        # One of several that wait for it may be cancelled.
        value = await asyncio.shield(task)
        if math.isnan(value):
            self._usage["failed"] += 1
        elif shared:
            self._usage["cached"] += 1
        return value

    def _answered(self, question: str, done: asyncio.Task[float]) -> None:
        del self._asked[question]
        # Those who waited may be gone: an error that nobody takes would be printed with its traceback.
        if not done.cancelled():
            done.exception()

    def _body(self, text: str) -> dict[str, Any]:
        section = self._section
        # Data may hold half a surrogate pair, which UTF-8 has no bytes for.
        text = text.encode("utf-8", "replace").decode()
        messages = [
            {"role": "system", "content": self._form.instruction},
            {"role": "user", "content": text},
        ]
        body = {**section.extra_body, "model": section.model, "messages": messages}
        if section.max_tokens is not None:
            body["max_tokens"] = section.max_tokens
        if section.temperature is not None:
            body["temperature"] = section.temperature
        if section.response_format is not None:
            body["response_format"] = {"type": section.response_format}
        return body

    async def _judged(self, body: dict[str, Any], question: str) -> float:
        try:
            number, answer = await self._asked_twice(body, question)
        except RequestFailed as failure:
            self._failures.of_request(failure)
            return math.nan
        except Unusable as failure:
            self._failures.of_answer(failure)
            return math.nan
        self._failures.none()
        if self._cache:
            self._cache.put(question, number, answer)
        return number

    async def _asked_twice(self, body: dict[str, Any], question: str) -> tuple[float, str]:
        """The number and the answer that holds it; an answer without one gets a reminder, once."""
        reply = await self._ask(body, question)
        try:
            return self._read(reply), reply.text
        except Unusable as failure:
            again = [
                {"role": "assistant", "content": reply.text[:_SHOWN]},
                {"role": "user", "content": self._form.reminder(str(failure))},
            ]
            body = {**body, "messages": [*body["messages"], *again]}
        reply = await self._ask(body, question)
        return self._read(reply), reply.text

    async def _ask(self, body: dict[str, Any], question: str) -> Reply:
        reply = await self._client.ask(body, question)
        self._failures.answered = True
        return reply

    def _read(self, reply: Reply) -> float:
        try:
            if reply.cut_off and self._section.max_tokens is None:
                raise Unusable("it was cut off at the server's own limit; set max_tokens")
            if reply.cut_off:
                raise Unusable(f"it was cut off at {self._section.max_tokens} tokens; raise max_tokens")
            return self._form.read(reply.text)
        except Unusable as failure:
            failure.answer = reply.text
            raise


def question_id(base_url: str, body: Mapping[str, Any]) -> str:
    """Hash of all that an answer depends on."""
    text = json.dumps([base_url, body], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def usage_of(section: AnyJudge, used: Counter[str]) -> dict[str, float]:
    """Requests, questions answered from the cache, questions left without a number, tokens, and cost."""
    names = ("calls", "cached", "failed", "input_tokens", "output_tokens")
    counts: dict[str, float] = {name: used[name] for name in names}
    price = section.price_per_million_tokens
    if price is not None:
        spent = counts["input_tokens"] * price.input + counts["output_tokens"] * price.output
        counts["cost"] = spent / 1e6
    return counts
