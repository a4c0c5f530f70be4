"""Dequantized copies of NF4 weights, for rollouts on a CUDA device where they are faster.

The speed of decoding is bound by reading the weights. A packed NF4 weight has a quarter of the bytes of a
16-bit copy. But for products of many rows bitsandbytes first dequantizes the weight into memory, and does so
again for every token: it reads the packed weight, writes the copy and reads it, 9/4 times the bytes of the
copy. The number of rows at which this begins differs between devices and versions of bitsandbytes (4 in one,
128 in another). So both ways are timed once when a run begins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from pgrpo_cli.pretrained.memory import is_out_of_memory

from ..nf4 import dequantize, nf4_layers
from .replaced import forwards_replaced

_ROWS = (2, 4, 8, 16, 32, 64, 128, 256)
"""The numbers of rows for which both ways are timed."""
_SAMPLE_BYTES = 256 << 20
"""Bytes of the copies that are timed: more than the cache of a device, since a whole model exceeds it too."""
_REPETITIONS = 5

Seconds = Callable[[Callable[[], object]], float]
"""The time that a call takes on the device."""


def copy_pays(
    num_rows: int, from_rows: int | None, copy_bytes: int, free_bytes: int, total_bytes: int
) -> bool:
    """Whether rollouts of `num_rows` rows should multiply by a copy. They should if it is faster, which holds
    from `from_rows` rows on (None: never), and if a quarter of the device's memory then stays free for keys,
    values and the prefill.
    """
    fast = from_rows is not None and num_rows >= from_rows
    return fast and copy_bytes <= free_bytes - total_bytes // 4


@contextmanager
def dequantized(
    model: nn.Module, *, num_rows: int, from_rows: int | None, kept: dict[int, torch.Tensor]
) -> Iterator[None]:
    """Within the block, NF4 layers on a CUDA device multiply by a dequantized copy if `copy_pays` says so,
    else by bitsandbytes' own kernels. The copies are stored in `kept` by the index of the layer. The caller
    may keep them for the next rollout, or clear them at any moment.
    """
    layers = nf4_layers(model)
    if layers and not kept and not _copy_is_due(layers, num_rows, from_rows):
        layers = []
    try:
        for i, layer in enumerate(layers):
            if i not in kept:
                kept[i] = dequantize(layer)
    except torch.OutOfMemoryError:
        kept.clear()
        layers = []
    with forwards_replaced({layer: partial(_forward, kept, i, layer) for i, layer in enumerate(layers)}):
        yield


def _forward(kept: dict[int, torch.Tensor], index: int, layer: Any, x: torch.Tensor) -> torch.Tensor:
    """Multiply by the copy if there is one. It is looked up at every call, because a reference kept here
    would prevent its memory from being released.
    """
    weight = kept.get(index)
    if weight is None:
        return type(layer).forward(layer, x)  # type: ignore[no-any-return]
    return linear(x.to(weight.dtype), weight, layer.bias).to(x.dtype)


def rows_from_which_copies_are_faster(model: nn.Module, seconds: Seconds | None = None) -> int | None:
    """The smallest number of rows from which on products with dequantized weights are faster than
    bitsandbytes' own. None if there is no such number, no NF4 layer, or not enough memory to measure.
    """
    seconds = seconds or seconds_in_a_graph
    layers = _sample(nf4_layers(model))
    if not layers:
        return None
    try:
        return _crossing(layers, seconds)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None


@torch.no_grad()
def _crossing(layers: list[Any], seconds: Seconds) -> int | None:
    copies = {i: dequantize(layer) for i, layer in enumerate(layers)}
    least = None
    for rows in reversed(_ROWS):
        inputs = [copies[i].new_ones(rows, layer.in_features) for i, layer in enumerate(layers)]

        def packed(inputs: list[torch.Tensor] = inputs) -> object:
            return [type(layer).forward(layer, x) for layer, x in zip(layers, inputs, strict=True)]

        def copied(inputs: list[torch.Tensor] = inputs) -> object:
            return [_forward(copies, i, layers[i], x) for i, x in enumerate(inputs)]

        if seconds(copied) >= seconds(packed):
            break
        least = rows
    return least


def _sample(layers: list[Any]) -> list[Any]:
    """The first layers, up to `_SAMPLE_BYTES` of copies. They suffice, since the shapes repeat in every
    block.
    """
    chosen: list[Any] = []
    size = 0
    for layer in layers:
        if size >= _SAMPLE_BYTES:
            break
        chosen.append(layer)
        size += _copy_bytes(layer)
    return chosen


def seconds_in_a_graph(call: Callable[[], object]) -> float:
    """The shortest of several times of a call on the current CUDA device. The call is captured in a graph, as
    in decoding, so that the time to launch its kernels does not count.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    times = []
    for _ in range(_REPETITIONS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return min(times)


def _copy_is_due(layers: list[Any], num_rows: int, from_rows: int | None) -> bool:
    copy_bytes = sum(map(_copy_bytes, layers))
    return copy_pays(num_rows, from_rows, copy_bytes, *_memory(layers[0].weight.device))


def _copy_bytes(layer: Any) -> int:
    state = layer.weight.quant_state
    return math.prod(state.shape) * (layer.compute_dtype or state.dtype).itemsize


def _memory(device: torch.device) -> tuple[int, int]:
    """Bytes that are available on a CUDA device, unused memory of the caching allocator included, and the
    total.
    """
    free, total = torch.cuda.mem_get_info(device)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + cached, total
