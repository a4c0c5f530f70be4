"""Scoring the completions of a run: asynchronous rewards start while the model still samples.

Nothing that comes out depends on how long a reward takes: scores are collected and summed in the order of the
recipe's rewards and of the completions.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import ExitStack
from dataclasses import dataclass

from .base import Completion, Score, is_asynchronous
from .calls import AwaitedRewardRaised, call, call_asynchronous, first_that_raises, raised_error
from .event_loop import EventLoopThread
from .reward_sum import RewardSum, Term


class Scorer:
    """The rewards of a run at work, from the beginning to the end of a `with` block.

    If some are asynchronous, they share one event loop in a background thread; the end of the block cancels
    what they still do.
    """

    def __init__(self, rewards: RewardSum) -> None:
        self._rewards = rewards
        self._loop = EventLoopThread()
        self._resources = ExitStack()

    @property
    def asks_others(self) -> bool:
        """Whether some of the rewards are asynchronous."""
        return any(is_asynchronous(term.function) for term in self._rewards.terms)

    def __enter__(self) -> Scorer:
        if self.asks_others:
            self._resources.enter_context(self._loop)
        return self

    def __exit__(self, *raised: object) -> None:
        self._resources.close()

    def start(self, rewards: RewardSum | None = None) -> PendingScores:
        """Begin scoring one list of completions, such as those of a step, by all rewards or some of them."""
        return PendingScores(rewards or self._rewards, self._loop)


@dataclass(frozen=True)
class _Call:
    """A call of an asynchronous reward with some of the completions; `indices` are their places."""

    position: int
    indices: Sequence[int]
    completions: Sequence[Completion]
    future: Future[list[Score]]


class PendingScores:
    """One list of completions being scored: handed over in batches as they are sampled, summed at the end."""

    def __init__(self, rewards: RewardSum, loop: EventLoopThread) -> None:
        self._rewards, self._loop = rewards, loop
        self._used_before = rewards.usage()
        self._added: set[int] = set()
        self._calls: list[_Call] = []

    def add(self, indices: Sequence[int], completions: Sequence[Completion]) -> None:
        """Start the asynchronous rewards on a batch, and return at once.

        `indices` are the places of its completions in the list that `scores` takes. Raises RewardError if a
        reward has failed on an earlier batch.
        """
        self._raise_failure()
        for position, term in enumerate(self._rewards.terms):
            if not is_asynchronous(term.function):
                continue
            chosen = [i for i, completion in enumerate(completions) if term.applies_to(completion)]
            if chosen:
                batch = [completions[i] for i in chosen]
                future = self._loop.submit(call_asynchronous(term, term.function, batch))
                self._calls.append(_Call(position, [indices[i] for i in chosen], batch, future))
                future.add_done_callback(self._cancel_after_failure)
        self._added.update(indices)

    def scores(self, completions: Sequence[Completion]) -> list[Score]:
        """Call the synchronous rewards, wait for the asynchronous ones, and sum up, in order.

        Raises what `by_term` raises.
        """
        return self._rewards.total(self.by_term(completions), len(completions))

    def by_term(self, completions: Sequence[Completion]) -> list[dict[int, Score]]:
        """Each reward's own scores, by the index of the completions that it applies to.

        Completions that were not added are added as one batch. Raises RewardError if a reward raises, gives
        no number, or asks somebody who has never answered.
        """
        rest = [index for index in range(len(completions)) if index not in self._added]
        self.add(rest, [completions[index] for index in rest])
        found = [_synchronous_scores(term, completions) for term in self._rewards.terms]
        wait([call.future for call in self._calls], return_when=FIRST_EXCEPTION)
        self._raise_failure()
        for done in self._calls:
            found[done.position].update(zip(done.indices, done.future.result(), strict=True))
        self._rewards.refuse_silence()
        return found

    def usage(self) -> dict[str, dict[str, float]]:
        """What the rewards have used since `start`, by label, then by what was counted."""
        return {
            label: {name: count - self._used_before[label].get(name, 0) for name, count in counts.items()}
            for label, counts in self._rewards.usage().items()
        }

    def _cancel_after_failure(self, future: Future[list[Score]]) -> None:
        """Called on the loop's thread: the run will stop, so the other calls are cancelled."""
        if not future.cancelled() and future.exception() is not None:
            for other in tuple(self._calls):
                other.future.cancel()

    def _raise_failure(self) -> None:
        for failed in self._calls:
            if not failed.future.done() or failed.future.cancelled():
                continue
            error = failed.future.exception()
            if isinstance(error, AwaitedRewardRaised):
                term = self._rewards.terms[failed.position]
                assert is_asynchronous(term.function)
                search = self._loop.submit(first_that_raises(term.function, failed.completions))
                cause = error.__cause__ or error
                raise raised_error(term, cause, failed.completions, search.result()) from cause
            if error is not None:
                raise error


def _synchronous_scores(term: Term, completions: Sequence[Completion]) -> dict[int, Score]:
    """A synchronous reward's scores of the completions that it applies to, by index; {} for another."""
    if is_asynchronous(term.function):
        return {}
    chosen = [index for index, completion in enumerate(completions) if term.applies_to(completion)]
    if not chosen:
        return {}
    scores = call(term, term.function, [completions[index] for index in chosen])
    return dict(zip(chosen, scores, strict=True))
