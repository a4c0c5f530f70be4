"""Rewards of a line each, plain or asynchronous, and what they give to completions."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from pgrpo_cli.rewards.base import Completion, Score
from pgrpo_cli.rewards.reward_sum import RewardSum, Term
from pgrpo_cli.rewards.scoring import Scorer

PATIENCE = 60.0
"""Seconds after which a test gives up on what must happen; while all is well, nothing waits that long."""

Function = Callable[[Sequence[Completion]], Any]


class Plain:
    """A reward that does what `function` does."""

    value_range = None

    def __init__(self, function: Function, parts: tuple[str, ...] = ("value",)) -> None:
        self.function, self.parts = function, parts

    def __call__(self, completions: Sequence[Completion]) -> Any:
        return self.function(completions)


class Awaited(Plain):
    """The same, awaited; `function` may itself be asynchronous."""

    async def __call__(self, completions: Sequence[Completion]) -> Any:
        await asyncio.sleep(0)
        found = self.function(completions)
        return await found if asyncio.iscoroutine(found) else found


def completions(*texts: str, groups: Sequence[str] | None = None) -> list[Completion]:
    """A completion a text, of prompts "0", "1", ..., in preference group "a" unless given."""
    return [
        Completion(str(i), group, "prompt", text)
        for i, (text, group) in enumerate(zip(texts, groups or ["a"] * len(texts), strict=True))
    ]


def summed(*functions: Any, weights: Sequence[float] | None = None) -> RewardSum:
    """The sum of rewards that are recorded as r0, r1, ..."""
    weights = weights or [1.0] * len(functions)
    pairs = zip(functions, weights, strict=True)
    return RewardSum(tuple(Term(f"r{i}", weight, None, f) for i, (f, weight) in enumerate(pairs)))


def scored(rewards: RewardSum, scored: Sequence[Completion], *, batch: int | None = None) -> list[Score]:
    """Score completions, handed over in batches of `batch`, or all at once."""
    with Scorer(rewards) as scorer:
        pending = scorer.start()
        for start in range(0, len(scored), batch) if batch else ():
            places = range(start, min(start + batch, len(scored)))  # type: ignore[operator]
            pending.add(places, [scored[i] for i in places])
        return pending.scores(scored)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for another call or thread; TimeoutError if it does not come."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


def threads_left() -> list[threading.Thread]:
    """Threads of rewards that still run, after a while for those that are about to end."""
    deadline = time.monotonic() + PATIENCE
    while left := [thread for thread in threading.enumerate() if thread.name.startswith("pgrpo-")]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.005)
    return left
