"""Asynchronous rewards at work: what overlaps, in which order results come, what ends when something fails.

That two things overlap is shown by making one wait for the other: in turn, they would wait in vain.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pgrpo_cli.errors import RewardError
from pgrpo_cli.rewards import event_loop
from pgrpo_cli.rewards.base import Score
from pgrpo_cli.rewards.reward_sum import RewardSum, Term
from pgrpo_cli.rewards.scoring import Scorer
from tests.support.rewards import PATIENCE, Awaited, Plain, completions, scored, summed, threads_left, until

# A coroutine that is never awaited, or an exception that nobody sees, is a warning.
pytestmark = pytest.mark.filterwarnings("error")

FOUR = completions("aaaa", "bbb", "cc", "d")
LENGTHS = [4.0, 3.0, 2.0, 1.0]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    # Exceptions hold the frames of coroutines until they are collected.
    gc.collect()
    assert threads_left() == []


def lengths(completions: Any) -> list[Score]:
    return [Score(float(len(c.text)), {"value": float(len(c.text))}) for c in completions]


def values(scores: list[Score]) -> list[float]:
    return [score.value for score in scores]


def test_the_calls_of_all_batches_are_in_flight_at_once() -> None:
    begun: list[str] = []

    async def reward(completions: Any) -> list[Score]:
        begun.append(completions[0].text)
        await until(lambda: len(begun) == 4)
        return lengths(completions)

    assert values(scored(summed(Awaited(reward)), FOUR, batch=1)) == LENGTHS


def test_asynchronous_rewards_run_beside_each_other() -> None:
    begun: set[str] = set()

    def meeting(me: str, other: str) -> Awaited:
        async def reward(completions: Any) -> list[Score]:
            begun.add(me)
            await until(lambda: other in begun)
            return lengths(completions)

        return Awaited(reward)

    assert values(scored(summed(meeting("a", "b"), meeting("b", "a")), FOUR)) == [8.0, 6.0, 4.0, 2.0]


def test_synchronous_rewards_run_once_on_the_main_thread_while_others_are_awaited() -> None:
    called: list[tuple[int, threading.Thread]] = []

    def plain(completions: Any) -> list[Score]:
        called.append((len(completions), threading.current_thread()))
        return lengths(completions)

    async def reward(completions: Any) -> list[Score]:
        await until(lambda: bool(called))
        return lengths(completions)

    assert values(scored(summed(Awaited(reward), Plain(plain)), FOUR, batch=1)) == [8.0, 6.0, 4.0, 2.0]
    assert called == [(4, threading.main_thread())]


def test_handing_over_a_batch_waits_for_nothing() -> None:
    handed_over = threading.Event()

    async def reward(completions: Any) -> list[Score]:
        await until(handed_over.is_set)
        return lengths(completions)

    with Scorer(summed(Awaited(reward))) as scorer:
        pending = scorer.start()
        pending.add([0, 1], FOUR[:2])
        pending.add([2, 3], FOUR[2:])
        handed_over.set()
        assert values(pending.scores(FOUR)) == LENGTHS


def test_scores_find_their_places_whatever_the_order_of_the_batches_and_of_their_ends() -> None:
    ended: list[str] = []

    async def reward(completions: Any) -> list[Score]:
        # The last batch is the first to end.
        await until(lambda: len(ended) == {"bbb": 2, "d": 1, "cc": 0}[completions[-1].text])
        ended.append(completions[-1].text)
        return lengths(completions)

    with Scorer(summed(Awaited(reward))) as scorer:
        pending = scorer.start()
        pending.add([0, 1], [FOUR[0], FOUR[1]])
        pending.add([3], [FOUR[3]])
        # The third completion is not handed over before the end.
        assert values(pending.scores(FOUR)) == LENGTHS
    assert ended == ["cc", "d", "bbb"]


def test_an_asynchronous_reward_sees_only_completions_of_its_preference_groups() -> None:
    seen: list[list[str]] = []

    def reward(completions: Any) -> list[Score]:
        seen.append([c.text for c in completions])
        return lengths(completions)

    groups = RewardSum((Term("r", 1.0, frozenset({"b"}), Awaited(reward)),))
    mixed = completions("aaaa", "bbb", "cc", "d", groups=["a", "b", "a", "a"])
    scores = scored(groups, mixed, batch=2)
    assert values(scores) == [0.0, 3.0, 0.0, 0.0]
    assert [score.parts for score in scores] == [{}, {"r": 3.0}, {}, {}]
    # Nothing of the second batch is its business: it is not called at all.
    assert seen == [["bbb"]]


def test_two_lists_can_be_scored_at_once_on_one_event_loop() -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    async def reward(completions: Any) -> list[Score]:
        loops.append(asyncio.get_running_loop())
        await until(lambda: len(loops) == 2)
        return lengths(completions)

    with Scorer(summed(Awaited(reward))) as scorer:
        first, second = scorer.start(), scorer.start()
        first.add([0, 1], FOUR[:2])
        second.add([0, 1], FOUR[2:])
        assert values(first.scores(FOUR[:2])) == LENGTHS[:2]
        assert values(second.scores(FOUR[2:])) == LENGTHS[2:]
    assert loops[0] is loops[1]
    assert loops[0].is_closed()


def test_without_asynchronous_rewards_there_is_no_thread() -> None:
    with Scorer(summed(Plain(lengths))) as scorer:
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("pgrpo-")]
        assert values(scorer.start().scores(FOUR)) == LENGTHS


class Slow:
    """Awaits until it is cancelled, and remembers that it was."""

    def __init__(self) -> None:
        self.begun, self.cancelled = threading.Event(), threading.Event()

    async def __call__(self, completions: Any) -> list[Score]:
        self.begun.set()
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            self.cancelled.set()
        raise AssertionError("it was not cancelled")


BROKEN: dict[str, tuple[Callable[[Any], Any], str]] = {
    "raises": (lambda completions: [1 / 0 for _ in completions], "ZeroDivisionError: division by zero"),
    "no number": (lambda completions: [Score("high", {}) for _ in completions], "'high' (str)"),
    "too few": (lambda completions: [], "returned 0 values for 2 completions"),
}


@pytest.mark.parametrize(("broken", "said"), BROKEN.values(), ids=BROKEN)
def test_a_reward_that_fails_cancels_the_others_before_anyone_waits(
    broken: Callable[[Any], Any], said: str
) -> None:
    slow = Slow()

    async def failing(completions: Any) -> Any:
        await until(slow.begun.is_set)
        return broken(completions)

    with (
        pytest.raises(RewardError, match="prompt 0 of preference group 'a', completion 'aaaa'") as caught,
        Scorer(summed(Awaited(slow), Awaited(failing))) as scorer,
    ):
        pending = scorer.start()
        pending.add([0, 1], FOUR[:2])
        # While the model would sample the next batch.
        assert slow.cancelled.wait(PATIENCE)
        pending.add([2, 3], FOUR[2:])
    assert said in str(caught.value)
    assert "'r1'" in str(caught.value)


def test_a_failure_ends_the_wait_for_others() -> None:
    slow = Slow()
    with pytest.raises(RewardError, match="'r1' raised ZeroDivisionError"):
        scored(summed(Awaited(slow), Awaited(lambda completions: 1 / 0)), FOUR)
    assert slow.cancelled.is_set()


def test_a_synchronous_reward_that_fails_cancels_asynchronous_ones() -> None:
    slow = Slow()

    def failing(completions: Any) -> list[Score]:
        assert slow.begun.wait(PATIENCE)
        raise ValueError("odd")

    with pytest.raises(RewardError, match="'r1' raised ValueError: odd; prompt 0"):
        scored(summed(Awaited(slow), Plain(failing)), FOUR)
    assert slow.cancelled.is_set()


def test_the_completion_to_blame_is_looked_for_with_all_of_them_in_flight() -> None:
    alone: list[str] = []

    async def reward(completions: Any) -> list[Score]:
        if len(completions) == 1:
            alone.append(completions[0].text)
            await until(lambda: len(alone) == 4)
        # Of those that raise alone, the later one does so first.
        if completions[-1].text == "bbb":
            await asyncio.sleep(0.01)
        return [Score(1 / (len(c.text) % 2), {}) for c in completions]

    with pytest.raises(RewardError, match="ZeroDivisionError: division by zero; prompt 1 of"):
        scored(summed(Awaited(reward)), completions("a", "bbbb", "cc", "ddd"))


def test_an_interrupt_ends_the_wait_at_once() -> None:
    slow = Slow()

    async def interrupting(completions: Any) -> list[Score]:
        await until(slow.begun.is_set)
        os.kill(os.getpid(), signal.SIGINT)
        return lengths(completions)

    with pytest.raises(KeyboardInterrupt):
        scored(summed(Awaited(slow), Awaited(interrupting)), FOUR)
    assert slow.cancelled.is_set()


def test_what_is_still_pending_at_the_end_of_a_run_is_cancelled() -> None:
    slow = Slow()
    with Scorer(summed(Awaited(slow))) as scorer:
        scorer.start().add([0, 1, 2, 3], FOUR)
        assert slow.begun.wait(PATIENCE)
    assert slow.cancelled.is_set()
    # Before it has begun, too: nothing is left that was never awaited.
    with Scorer(summed(Awaited(Slow()))) as scorer:
        for _ in range(100):
            scorer.start().add([0, 1, 2, 3], FOUR)


@pytest.mark.parametrize("thread", ["pgrpo-rewards", "pgrpo-blocking-call"])
def test_a_reward_that_blocks_does_not_hold_up_the_end(thread: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if thread == "pgrpo-rewards":
        monkeypatch.setattr(event_loop, "GRACE_SECONDS", 0.05)
    begun, release = threading.Event(), threading.Event()

    def block() -> None:
        begun.set()
        release.wait(PATIENCE)

    async def blocking(completions: Any) -> list[Score]:
        await asyncio.to_thread(block) if thread == "pgrpo-blocking-call" else block()
        return lengths(completions)

    with Scorer(summed(Awaited(blocking))) as scorer:
        scorer.start().add([0, 1, 2, 3], FOUR)
        assert begun.wait(PATIENCE)
    left = [other for other in threading.enumerate() if other.name.startswith("pgrpo-")]
    release.set()
    # A thread of any other pool would be joined when the process ends.
    assert [(other.name, other.daemon) for other in left] == [(thread, True)]


def test_blocking_calls_in_threads_run_beside_each_other_and_hand_on_what_they_raise() -> None:
    meeting = threading.Barrier(4)

    def blocking(text: str) -> int:
        meeting.wait(PATIENCE)
        return 12 // (len(text) - 1)

    async def reward(completions: Any) -> list[Score]:
        numbers = await asyncio.gather(
            *(asyncio.to_thread(blocking, c.text) for c in completions), return_exceptions=True
        )
        assert isinstance(numbers.pop(), ZeroDivisionError)
        return [Score(value, {}) for value in (*numbers, 0)]

    assert values(scored(summed(Awaited(reward)), FOUR)) == [4.0, 6.0, 12.0, 0.0]
