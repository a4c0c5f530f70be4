"""Decode steps captured in CUDA graphs: thousands of kernel launches per token become one.

A CUDA graph is recorded with fixed memory addresses, and every replay reads and writes there. Therefore
everything that a step reads and writes lies in static buffers, and the addresses of all weights and buffers
are compared before a graph is used again. The optimizer changes the adapter in place, so the graphs see every
update. If a step cannot be captured, steps run eagerly from then on; if the reason was a lack of memory, only
for the rest of the batch.
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
"""How many graphs are kept. A graph of some thousand kernels takes a few megabytes."""
_MOST_SHORTAGES = 3
"""After this many captures that ran out of memory, no more are tried."""

Step = Callable[[], None]
Runner = Callable[[Hashable, Step], None]


class Recorder(Protocol):
    """Records steps. Tests replace `CudaRecorder` by a recorder that needs no GPU."""

    def warm_up(self, step: Step) -> None:
        """Run the step in the place (the CUDA stream) where it will be recorded."""

    def record(self, step: Step) -> Step:
        """Record the step without running it, and return a function that runs it. Raises what the step
        raises.
        """

    def forget(self) -> None:
        """Called when all recorded steps have been dropped."""


class Graphs:
    """The captured steps of one policy, by key. `failure`: why no more steps are captured, or None."""

    def __init__(self, recorder: Recorder) -> None:
        self.failure: str | None = None
        self._shortages, self._paused = 0, False
        self._recorder = recorder
        self._replays: dict[Hashable, Step] = {}
        self._addresses: Hashable = None

    def __len__(self) -> int:
        return len(self._replays)

    def clear(self) -> None:
        """Drop all graphs and release their memory."""
        self._replays.clear()
        self._recorder.forget()

    def runner(self, conditions: Hashable, addresses: Hashable) -> Runner:
        """A function `run(key, step)` for the steps of one batch.

        A captured step is used again only if `conditions`, `key` and `addresses` are equal. `conditions` and
        `key` stand for everything that decides which kernels run; `addresses` are those of all tensors that
        the step reads or writes.
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
        # Any error: the warm-up has just run the step itself, so the run can continue without the graph.
        except Exception as error:
            short, cause = any(map(is_out_of_memory, _causes(error))), _first_cause(error)
        else:
            return
        # Outside of the except block, because inside it the traceback still references the tensors of the
        # failed attempt, so their memory could not be released.
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
        warnings.warn(
            f"decoding continues without CUDA graphs, more slowly: {cause}", RunWarning, stacklevel=2
        )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and the errors that were being handled when it was raised."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__context__


def _first_cause(error: BaseException) -> str:
    """The error that broke the capture. Ending a broken capture raises a second error, which says nothing."""
    *_, error = _causes(error)
    return f"{type(error).__name__}: {(str(error) or 'no reason given').splitlines()[0]}"


class CudaRecorder:
    """Captures steps in CUDA graphs. This is the only class of the module that needs a GPU.

    All graphs share one memory pool, which saves memory. This is safe because no two graphs run at the same
    time, and because the results of a step lie in buffers outside of the pool.
    """

    def __init__(self) -> None:
        self._pool: Any = None
        self._stream: Any = None

    def warm_up(self, step: Step) -> None:
        """Run the step on the stream of the capture. Kernels are loaded and workspaces allocated on first
        use, and neither may happen during a capture.
        """
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
        """Capture the step in a graph, and return the function that replays it."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        capture = torch.cuda.graph(
            graph,
            pool=self._pool,
            stream=self._stream,
            # The default mode would break the capture when another thread, say of a tracker, uses the device.
            capture_error_mode="thread_local",
        )
        try:
            # A capture that fails does not restore the current stream; the outer block does.
            with torch.cuda.stream(self._stream), capture:
                step()
        except BaseException:
            # It may also leave the allocator in capture mode, in which it never releases memory again.
            with suppress(RuntimeError):
                torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self._pool)
            raise
        return graph.replay

    def forget(self) -> None:
        """Use a new pool for the next graph: a pool must not be used again once its last graph is gone."""
        self._pool = None
