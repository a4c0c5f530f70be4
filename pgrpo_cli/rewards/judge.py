"""`type: judge`: completions scored by a language model behind an HTTP interface, while the policy samples.

A completion that the judge cannot score has the reward NaN, which gives no signal. It is never 0: a failure
would then look like a bad answer, and the model would learn from it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pgrpo_cli.errors import RecipeError, RewardError
from pgrpo_cli.recipe.reward_judge import JudgeReward
from pgrpo_cli.recipe.template_filters import TemplateProblem

from .base import BuildContext, Completion, Score
from .judge_answer import Unusable, instruction, parse_score, reminder
from .judge_cache import JudgeCache
from .judge_client import JudgeClient, Reply, RequestFailed, is_this_machine
from .judge_failures import Failures
from .judge_rubric import Rubric

CACHE_FILE = "judge.sqlite"
_SHOWN = 2000
"""Characters of an unusable answer that the judge is shown again."""


class Judge:
    """The reward. It opens its connections and its cache on the event loop that first calls it."""

    parts = ("score",)

    def __init__(self, section: JudgeReward, cache_path: Path | None, api_key: str | None) -> None:
        self._section, self._cache_path, self._key = section, cache_path, api_key
        self._session: _Session | None = None
        self._usage: Counter[str] = Counter()

    @property
    def value_range(self) -> tuple[float, float]:
        return self._section.scale if self._section.raw else (0.0, 1.0)

    def usage(self) -> dict[str, float]:
        """Requests, completions scored from the cache, completions left without a score, tokens, and cost."""
        names = ("calls", "cached", "failed", "input_tokens", "output_tokens")
        counts: dict[str, float] = {name: self._usage[name] for name in names}
        price = self._section.price_per_million_tokens
        if price is not None:
            spent = counts["input_tokens"] * price.input + counts["output_tokens"] * price.output
            counts["cost"] = spent / 1e6
        return counts

    async def __call__(self, completions: Sequence[Completion]) -> list[Score]:
        loop = asyncio.get_running_loop()
        if self._session is None or self._session.loop is not loop:
            cache = JudgeCache(self._cache_path) if self._cache_path else None
            self._session = _Session(self._section, self._key, cache, self._usage)
        tasks = [asyncio.create_task(self._session.score(completion)) for completion in completions]
        try:
            return [_score(self._scaled(await task)) for task in tasks]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _scaled(self, value: float) -> float:
        low, high = self._section.scale
        return value if self._section.raw else (value - low) / (high - low)


def _score(value: float) -> Score:
    return Score(value, {} if math.isnan(value) else {"score": value})


class _Session:
    """A judge at work on one event loop; what it holds is released when the loop ends."""

    def __init__(
        self, section: JudgeReward, api_key: str | None, cache: JudgeCache | None, usage: Counter[str]
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._section, self._usage, self._cache = section, usage, cache
        self._rubric = Rubric(section)
        self._client = JudgeClient(section, api_key, usage)
        self._asked: dict[str, asyncio.Task[float]] = {}
        self._failures = Failures(section)
        # The end of the loop cancels its tasks: this one then closes what is open.
        self._keeper = asyncio.create_task(self._keep_open())

    async def _keep_open(self) -> None:
        try:
            async with self._client:
                await asyncio.Event().wait()
        finally:
            if self._cache:
                self._cache.close()

    async def score(self, completion: Completion) -> float:
        """A score on the judge's scale, NaN where it gives none. A question in flight is not asked again."""
        body = self._body(completion)
        question = question_id(self._section.base_url, body)
        kept = self._cache.get(question) if self._cache else None
        if kept is not None:
            self._usage["cached"] += 1
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

    def _body(self, completion: Completion) -> dict[str, Any]:
        section = self._section
        try:
            text = self._rubric(completion)
        except TemplateProblem as problem:
            raise RewardError(
                f"judge {section.label!r}: the rubric cannot be written for prompt {completion.prompt_id} of "
                f"preference group {completion.preference_group!r}: {problem}",
                remedy="Correct `rubric`; `{% if reference is defined %}` asks what a row has, and "
                "`{{ columns.note or '' }}` writes nothing for a null.",
            ) from problem
        # Data may hold half a surrogate pair, which UTF-8 has no bytes for.
        text = text.encode("utf-8", "replace").decode()
        messages = [
            {"role": "system", "content": instruction(*section.scale)},
            {"role": "user", "content": text},
        ]
        body = {**section.extra_body, "model": section.model, "messages": messages}
        body["max_tokens"] = section.max_tokens
        if section.temperature is not None:
            body["temperature"] = section.temperature
        if section.response_format is not None:
            body["response_format"] = {"type": section.response_format}
        return body

    async def _judged(self, body: dict[str, Any], question: str) -> float:
        try:
            score, answer = await self._asked_twice(body, question)
        except RequestFailed as failure:
            self._failures.of_request(failure)
            return math.nan
        except Unusable as failure:
            self._failures.of_answer(failure)
            return math.nan
        self._failures.none()
        if self._cache:
            self._cache.put(question, score, answer)
        return score

    async def _asked_twice(self, body: dict[str, Any], question: str) -> tuple[float, str]:
        """The score and the answer that holds it; an answer without one gets a reminder, once."""
        reply = await self._ask(body, question)
        try:
            return self._read(reply), reply.text
        except Unusable as failure:
            again = [
                {"role": "assistant", "content": reply.text[:_SHOWN]},
                {"role": "user", "content": reminder(*self._section.scale, str(failure))},
            ]
            body = {**body, "messages": [*body["messages"], *again]}
        reply = await self._ask(body, question)
        return self._read(reply), reply.text

    async def _ask(self, body: dict[str, Any], question: str) -> Reply:
        reply = await self._client.ask(body, question)
        self._failures.answered = True
        return reply

    def _read(self, reply: Reply) -> float:
        if reply.cut_off:
            raise Unusable(f"it was cut off at {self._section.max_tokens} tokens (max_tokens)")
        return parse_score(reply.text, *self._section.scale)


def question_id(base_url: str, body: Mapping[str, Any]) -> str:
    """Hash of all that an answer depends on."""
    text = json.dumps([base_url, body], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def build_judge(section: JudgeReward, context: BuildContext) -> Judge:
    """The reward of a section. Raises RecipeError unless its host is allowed and its key is there."""
    if not is_this_machine(section.host) and section.host not in context.allowed_hosts:
        raise RecipeError(
            f"reward {section.label!r} sends prompts and completions to {section.host}"
            + (f", with the key in {section.api_key_env}" if section.api_key_env else ""),
            remedy=f"If you trust the recipe and that host with them, add --allow-host {section.host}",
        )
    key = _key(section)
    path = context.run_dir / CACHE_FILE if context.run_dir else None
    if section.cache is not None:
        path = context.recipe_dir / Path(section.cache).expanduser()
    if path is not None:
        # What is wrong with the file shows before anything is sampled.
        JudgeCache(path).close()
    return Judge(section, path, key)


def _key(section: JudgeReward) -> str | None:
    if section.api_key_env is None:
        return None
    key = os.environ.get(section.api_key_env, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        problem = "holds characters that no key has" if key else "is not set"
        raise RecipeError(
            f"reward {section.label!r}: the environment variable {section.api_key_env} {problem}",
            remedy=f"Set it to the judge's key: export {section.api_key_env}=...",
        )
    return key
