"""`eval.judge`: the base model's and the tuned model's completion of a prompt, compared by a language model.

Judges tend to prefer the answer that they are shown first, so each pair is shown in both orders.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from pathlib import Path

from pgrpo_cli.recipe.eval_judge import PairJudge

from .base import BuildContext, Completion
from .event_loop import EventLoopThread
from .judge_access import access
from .judge_failures import Failures
from .judge_preference import preference_form
from .judge_rubric import Rubric
from .judge_session import JudgeSession, usage_of

Shares = tuple[float, float]
"""What the tuned completion got shown first, and second: 1 better, 0.5 alike, 0 worse, NaN: no answer."""


class PairwiseJudge:
    """A judge that compares pairs (base, tuned) of completions of one prompt each."""

    def __init__(self, section: PairJudge, cache_path: Path | None, api_key: str | None) -> None:
        self._section, self._cache_path, self._key = section, cache_path, api_key
        self._rubric = Rubric(section)
        self._usage: Counter[str] = Counter()
        self._failures = Failures(section)

    def complaints(self) -> list[str]:
        """How many questions failed, by reason."""
        return self._failures.sentences()

    def usage(self) -> dict[str, float]:
        """Requests, questions answered from the cache, questions left without an answer, tokens, and cost."""
        return usage_of(self._section, self._usage)

    def compare(
        self,
        pairs: Sequence[tuple[Completion, Completion]],
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[Shares]:
        """What became of each pair, in order; `progress` is told how many are done.

        Completions that are alike are alike: nobody is asked. Raises RewardError where the judge has failed
        too often or on all questions, or the rubric cannot be written.
        """
        with EventLoopThread() as loop:
            session, turn = loop.submit(self._open()).result()
            calls = [loop.submit(self._both_orders(session, turn, *pair)) for pair in pairs]
            # As they come, so that a judge that is down stops the others at once.
            for done, call in enumerate(as_completed(calls), start=1):
                call.result()
                progress(done)
            self._failures.refuse_silence()
            return [call.result() for call in calls]

    async def _open(self) -> tuple[JudgeSession, asyncio.Semaphore]:
        """The judge at work, and a turn for pairs, or further attempts would queue behind all first ones."""
        session = JudgeSession(
            self._section, preference_form(), self._cache_path, self._key, self._usage, self._failures
        )
        return session, asyncio.Semaphore(self._section.concurrency)

    async def _both_orders(
        self, session: JudgeSession, turn: asyncio.Semaphore, base: Completion, tuned: Completion
    ) -> Shares:
        if base.text == tuned.text:
            return 0.5, 0.5
        async with turn:
            first, second = await asyncio.gather(
                session.number(self._rubric(tuned, first=tuned.text, second=base.text)),
                session.number(self._rubric(base, first=base.text, second=tuned.text)),
            )
        return first, 1 - second


def build_pairwise_judge(section: PairJudge, context: BuildContext) -> PairwiseJudge:
    """The judge of a section. Raises RecipeError unless its host is allowed and its key is there."""
    return PairwiseJudge(section, *access(section, context))
