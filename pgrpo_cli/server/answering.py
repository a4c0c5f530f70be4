"""Answers are computed one after the other, in a thread, while the event loop serves everybody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from pgrpo_cli.conversation.speaker import Reply

from .errors import ApiError

MOST_WAITING = 128
"""Requests at once, the one whose answer is computed included."""

Result = TypeVar("Result")


class AnswerQueue:
    """Who is answered next: whoever has waited longest. More than `most` at a time are sent away."""

    def __init__(self, most: int = MOST_WAITING) -> None:
        self._most, self.taken, self._turn = most, 0, asyncio.Lock()

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue, as long as the block lasts. Raises ApiError where all are taken."""
        if self.taken >= self._most:
            raise ApiError(
                429, f"{self._most} requests wait already; try again later", code="rate_limit_exceeded"
            )
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    async def pieces(self, reply: Reply) -> AsyncGenerator[str, None]:
        """The pieces of an answer, from when its turn has come. To stop it early, close the generator."""
        arrived: asyncio.Queue[str | Exception | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def compute() -> None:
            for piece in reply:
                loop.call_soon_threadsafe(arrived.put_nowait, piece)

        async def work() -> None:
            try:
                await self.run(compute, reply.stop)
            except Exception as error:
                arrived.put_nowait(error)
            else:
                arrived.put_nowait(None)

        task = asyncio.create_task(work())
        try:
            while (piece := await arrived.get()) is not None:
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            task.cancel()

    async def run(self, compute: Callable[[], Result], stop: Callable[[], object]) -> Result:
        """What `compute` returns, called in a thread when its turn has come.

        If this is cancelled meanwhile, `stop` is called, and the turn ends when the thread has heard of it.
        """
        async with self._turn:
            return await in_thread(compute, stop)


async def in_thread(work: Callable[[], Result], stop: Callable[[], object] = lambda: None) -> Result:
    """What `work` returns, called in a thread.

    If this is cancelled meanwhile, `stop` is called, and it ends when the thread has ended, so that a lock
    which is held around it is free no earlier.
    """
    thread = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        stop()
        await asyncio.wait({thread})
        raise


class StopSequences:
    """Cuts a text that comes in pieces before the first of some sequences.

    What may be the beginning of one is held back until it is known.
    """

    def __init__(self, sequences: Sequence[str]) -> None:
        self._sequences, self._held = tuple(sequences), ""
        self.found = False

    def take(self, piece: str) -> str:
        """What can be said now that this piece has come."""
        if self.found:
            return ""
        text = self._held + piece
        places = [place for sequence in self._sequences if (place := text.find(sequence)) >= 0]
        if places:
            self.found, self._held = True, ""
            return text[: min(places)]
        keep = max((_overlap(text, sequence) for sequence in self._sequences), default=0)
        said, self._held = text[: len(text) - keep], text[len(text) - keep :]
        return said

    def rest(self) -> str:
        """What was held back, when no more will come."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, sequence: str) -> int:
    """How many characters at the end of the text may be the beginning of the sequence."""
    longest = min(len(text), len(sequence) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(sequence[:n])), 0)
