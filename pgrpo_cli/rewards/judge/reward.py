"""`type: judge`: completions scored by a language model over HTTP, while the policy samples."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pgrpo_cli.recipe.rewards import JudgeReward
from pgrpo_cli.rewards.base import BuildContext, Completion, Score

from .access import Rubric, access
from .answer import score_form
from .session import Failures, JudgeSession, usage_of


class Judge:
    """The reward. It opens its connections and its cache on the event loop that first calls it."""

    parts = ("score",)

    def __init__(self, section: JudgeReward, cache_path: Path | None, api_key: str | None) -> None:
        self._section, self._cache_path, self._key = section, cache_path, api_key
        self._rubric = Rubric(section)
        self._session: JudgeSession | None = None
        self._usage: Counter[str] = Counter()
        self._failures = Failures(section)

    @property
    def value_range(self) -> tuple[float, float]:
        return self._section.scale if self._section.raw else (0.0, 1.0)

    def usage(self) -> dict[str, float]:
        """Requests, completions scored from the cache, completions left without a score, tokens, and cost."""
        return usage_of(self._section, self._usage)

    def complaints(self) -> list[str]:
        """How many questions failed, by reason."""
        return self._failures.sentences()

    def refuse_silence(self) -> None:
        """Raises RewardError where the judge failed and has given no score yet."""
        self._failures.refuse_silence()

    async def __call__(self, completions: Sequence[Completion]) -> list[Score]:
        if self._session is None or self._session.loop is not asyncio.get_running_loop():
            form = score_form(*self._section.scale)
            self._session = JudgeSession(
                self._section, form, self._cache_path, self._key, self._usage, self._failures
            )
        tasks = [asyncio.create_task(self._score(self._session, completion)) for completion in completions]
        try:
            return [await task for task in tasks]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _score(self, session: JudgeSession, completion: Completion) -> Score:
        value = await session.number(self._rubric(completion, completion=completion.text))
        low, high = self._section.scale
        value = value if self._section.raw else (value - low) / (high - low)
        return Score(value, {} if math.isnan(value) else {"score": value})


def build_judge(section: JudgeReward, context: BuildContext) -> Judge:
    """The reward of a section. Raises RecipeError unless its host is allowed and its key is there."""
    return Judge(section, *access(section, context))
