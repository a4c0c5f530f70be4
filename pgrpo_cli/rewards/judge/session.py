"""A judge at work: questions become requests, answers numbers, and what was asked once is not asked again.

A question that the judge cannot answer comes out as NaN. It is never 0: a failure would then look like a bad
answer, and a model would learn from it. `Failures` counts what failed, and says when
that stops a run.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections import Counter, deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgrpo_cli.errors import RewardError

from .access import AnyJudge
from .answer import AnswerForm, Unusable
from .cache import JudgeCache
from .client import JudgeClient, Reply, RequestFailed

_SHOWN = 2000
"""Characters of an unusable answer that the judge is shown again."""
_SHOWN_OF_ANSWER = 300
"""Characters of an answer that are shown."""
_REASONS_SHOWN, _MOST_REASONS = 3, 50
_REMEDY = "Put the judge or its section of the recipe right and run the same command again. Answers are kept."


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
        # Whoever waited may be gone, and asyncio prints the traceback of an error that is never retrieved.
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
        """The number and the answer that holds it; an answer without one gets a reminder, once.

        Not one that was cut off: the next one would be cut off, too.
        """
        reply = await self._ask(body, question)
        try:
            return self._read(reply), reply.shown
        except Unusable as failure:
            if reply.cut_off:
                raise
            again = [
                {"role": "assistant", "content": reply.shown[:_SHOWN]},
                {"role": "user", "content": self._form.reminder(str(failure))},
            ]
            body = {**body, "messages": [*body["messages"], *again]}
        reply = await self._ask(body, question)
        return self._read(reply), reply.shown

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
            # A short key, as servers at home have it, may be a part of a score.
            with suppress(Unusable):
                return self._form.read(reply.text)
            # The message may quote the answer.
            self._form.read(reply.shown)
            raise Unusable("it cannot be read")
        except Unusable as failure:
            failure.answer = reply.shown
            raise


@dataclass
class _Reason:
    count: int = 0
    words: str = ""


class Failures:
    """How often the judge failed, and why. Methods raise RewardError where the run should stop."""

    def __init__(self, section: AnyJudge) -> None:
        self._section = section
        self._latest: deque[bool] = deque(maxlen=section.failure_window)
        self._reasons: dict[str, _Reason] = {}
        self.answered = self.useful = False
        """Whether the judge has said anything at all, and anything that can be used."""

    def none(self) -> None:
        """A question was answered."""
        self._latest.append(False)
        self.useful = True

    def of_answer(self, failure: Unusable) -> None:
        """The judge answered twice, and not what was asked."""
        answer = " ".join(failure.answer.split())
        quoted = repr(answer if len(answer) <= _SHOWN_OF_ANSWER else f"{answer[:_SHOWN_OF_ANSWER]}...")
        self._count(f"its answer cannot be used: {failure}", f"it said {quoted}" if answer else "")

    def of_request(self, failure: RequestFailed) -> None:
        """A request failed for good. If the judge has never answered, or never can, the run stops at once."""
        section = self._section
        if failure.hopeless or (failure.refusing and not (self.answered or self.useful)):
            key = f", and the key in {section.api_key_env}" if section.api_key_env else ""
            raise RewardError(
                f"{self._who} refuses requests: {failure}",
                remedy=f"Check base_url and model{key}. Answers so far are kept: the same command continues.",
            )
        if failure.passing and not self.answered:
            raise RewardError(
                f"{self._who} does not answer, after {section.retries + 1} attempts: {failure}",
                remedy="Start it, or correct base_url, and run the same command again.",
            )
        self._count(failure.kind, failure.said)

    def refuse_silence(self) -> None:
        """Raises RewardError where questions failed and none, now or before, had an answer of use."""
        if self._reasons and not self.useful:
            count = sum(reason.count for reason in self._reasons.values())
            raise RewardError(
                f"{self._who} gave no answer that can be used to any of {count} questions: {self._told()}",
                remedy=_REMEDY,
            )

    def sentences(self) -> list[str]:
        """How many questions failed, by reason; nothing where none did."""
        count = sum(reason.count for reason in self._reasons.values())
        many = "1 question has" if count == 1 else f"{count:,} questions have"
        return [f"{self._section.label}: {many} no answer that can be used: {self._told()}"] if count else []

    @property
    def _who(self) -> str:
        return f"judge {self._section.label!r} at {self._section.base_url}"

    def _told(self) -> str:
        """The most frequent reasons, each with the words of its last failure."""
        reasons = sorted(self._reasons.items(), key=lambda item: -item[1].count)
        told = [
            f"{reason.count:,} x {kind}" + (f": {reason.words}" if reason.words else "")
            for kind, reason in reasons[:_REASONS_SHOWN]
        ]
        rest = sum(reason.count for _, reason in reasons[_REASONS_SHOWN:])
        return "; ".join([*told, *([f"{rest:,} x something else"] if rest else [])])

    def _count(self, kind: str, words: str) -> None:
        self._latest.append(True)
        full = len(self._reasons) >= _MOST_REASONS and kind not in self._reasons
        reason = self._reasons.setdefault("other reasons" if full else kind, _Reason())
        reason.count, reason.words = reason.count + 1, words
        section, failed = self._section, sum(self._latest)
        if failed > section.max_failure_share * section.failure_window:
            raise RewardError(
                f"{self._who} failed on {failed} of the last "
                f"{len(self._latest)} questions (max_failure_share is {section.max_failure_share:g} of "
                f"{section.failure_window}), the last time: {kind}" + (f": {words}" if words else ""),
                remedy=_REMEDY,
            )


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
