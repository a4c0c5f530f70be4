"""An asyncio event loop beside the main thread, for rewards that are awaited while the model samples."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

GRACE_SECONDS = 2.0
"""How long the end of a run waits for coroutines to react to their cancellation."""
_BLOCKING_CALLS = 32


class EventLoopThread:
    """An event loop in a daemon thread, from the beginning to the end of a `with` block.

    At the end what still runs is cancelled and the loop is closed. A coroutine that does not react, because
    it blocks or swallows its cancellation, is left alone after GRACE_SECONDS; its thread ends with the
    process.
    """

    def __enter__(self) -> EventLoopThread:
        self._loop, self._stop = asyncio.new_event_loop(), asyncio.Event()
        self._loop.set_default_executor(_DaemonPool(_BLOCKING_CALLS))
        self._thread = threading.Thread(target=self._serve, name="pgrpo-rewards", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(GRACE_SECONDS)

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run the coroutine on the loop. Cancelling the future cancels the coroutine."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._stop.wait())


class _DaemonPool(ThreadPoolExecutor):
    """Where `asyncio.to_thread` runs blocking calls: in daemon threads.

    The process joins the threads of any other pool before it exits, so a request that hangs in one would keep
    a run from stopping.
    """

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self._most = most
        self._daemons: list[threading.Thread] = []
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        self._calls.put((future, lambda: fn(*args, **kwargs)))
        if len(self._daemons) < self._most:
            daemon = threading.Thread(target=self._work, name="pgrpo-blocking-call", daemon=True)
            self._daemons.append(daemon)
            daemon.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let idle threads end. Never waits: the coroutines behind the calls have been cancelled."""
        for _ in self._daemons:
            self._calls.put(None)

    def _work(self) -> None:
        while (called := self._calls.get()) is not None:
            future, function = called
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = function()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
