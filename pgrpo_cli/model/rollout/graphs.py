"""Decode steps captured in CUDA graphs: thousands of kernel launches a token become one.

A CUDA graph is recorded with fixed memory addresses and reads and writes there at every replay. What a step
reads and writes therefore lies in static buffers, and the addresses of all weights and buffers are compared
before a graph is used again. The adapter is trained in place, so its graphs see every update. A step that
cannot be captured runs as it is, from then on; where memory ran out, for the rest of the batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from typing import Any, Protocol

import torch

from pgrpo_cli.errors import RunWarning
from pgrpo_cli.pretrained.memory import is_out_of_memory, release_memory

_MOST_GRAPHS = 64
"""Captured at a time; a graph of some thousand kernels holds a few megabytes."""
_MOST_SHORTAGES = 3
"""Captures that may run out of memory before no more are tried."""

Step = Callable[[], None]
Runner = Callable[[Hashable, Step], None]


class Recorder(Protocol):
    """What takes a step and what records one."""

    def warm_up(self, step: Step) -> None:
        """Take the step where it will be recorded."""

    def record(self, step: Step) -> Step:
        """Record the step without taking it; what is returned takes it. Raises what the step raises."""

    def forget(self) -> None:
        """All recorded steps have been dropped."""


class Graphs:
    """The captured steps of one policy, by what they depend on. `failure`: why there are none any more."""

    def __init__(self, recorder: Recorder) -> None:
        self.failure: str | None = None
        self._shortages, self._paused = 0, False
        self._recorder = recorder
        self._replays: dict[Hashable, Step] = {}
        self._addresses: Hashable = None

    def __len__(self) -> int:
        return len(self._replays)

    def clear(self) -> None:
        """Drop all graphs; their memory goes back with them."""
        self._replays.clear()
        self._recorder.forget()

    def runner(self, conditions: Hashable, addresses: Hashable) -> Runner:
        """A function `run(key, step)` for the steps of one batch.

        `conditions` and `key` are what a step's course depends on, `addresses` where everything lies that it
        reads or writes.
        """
        if addresses != self._addresses:
            self.clear()
            self._addresses = addresses
        self._paused = False
        return lambda key, step: self._run((conditions, key), step)

    def _run(self, key: Hashable, step: Step) -> None:
        replay = self._replays.get(key)
        if replay is not None:
            replay()
        elif self.failure is not None or self._paused:
            step()
        else:
            self._recorder.warm_up(step)
            self._capture(key, step)

    def _capture(self, key: Hashable, step: Step) -> None:
        if len(self) >= _MOST_GRAPHS:
            self.clear()
        try:
            self._replays[key] = self._recorder.record(step)
        # Whatever it is, the step itself has just been taken without it: the run goes on.
        except Exception as error:
            short, cause = any(map(is_out_of_memory, _causes(error))), _first_cause(error)
        else:
            return
        # Not in the except block: as long as that lasts, the traceback holds the failed attempt's tensors.
        self.clear()
        if not short:
            self._give_up(cause)
            return
        release_memory()
        self._shortages, self._paused = self._shortages + 1, True
        if self._shortages == _MOST_SHORTAGES:
            self._give_up(f"{_MOST_SHORTAGES} captures ran out of memory")

    def _give_up(self, cause: str) -> None:
        self.failure = cause
        warnings.warn(f"decoding goes on without CUDA graphs, more slowly: {cause}", RunWarning, stacklevel=2)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and those in whose handling it was raised."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__context__


def _first_cause(error: BaseException) -> str:
    """What broke the capture; the error of its end, which follows from it, says nothing."""
    *_, error = _causes(error)
    return f"{type(error).__name__}: {(str(error) or 'no reason given').splitlines()[0]}"


class CudaRecorder:
    """Captures steps in CUDA graphs. The only code here that needs a device.

    All graphs share one memory pool. That is sound because no two run at once and all that a step leaves
    behind is in buffers outside of the pool.
    """

    def __init__(self) -> None:
        self._pool: Any = None
        self._stream: Any = None

    def warm_up(self, step: Step) -> None:
        """Take the step on the stream of the capture, which finds kernels and workspaces in place then."""
        if self._stream is None:
            self._stream = torch.cuda.Stream()
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                step()
        finally:
            current.wait_stream(self._stream)

    def record(self, step: Step) -> Step:
        """Capture the step; the graph's replay is returned."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        capture = torch.cuda.graph(
            graph,
            pool=self._pool,
            stream=self._stream,
            # Other threads, of a tracker for instance, may go on using the device.
            capture_error_mode="thread_local",
        )
        try:
            # A capture that breaks off leaves its stream behind as the current one; the outer block does not.
            with torch.cuda.stream(self._stream), capture:
                step()
        except BaseException:
            # It may also leave the allocator in its service, which then frees nothing in this process again.
            with suppress(RuntimeError):
                torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self._pool)
            raise
        return graph.replay

    def forget(self) -> None:
        """Take another pool next time: one that no graph holds any more must not be named again."""
        self._pool = None
