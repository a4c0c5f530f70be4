"""Dequantized copies of NF4 weights, by which rollouts on a CUDA device multiply where that is faster.

A decoded token waits for the weights to be read. A packed weight is a quarter of a 16-bit one. But a product
of many rows dequantizes it into memory first, for every token again: the packed weight in, the copy out and
in, 9/4 of the copy. From how many rows on that happens differs between devices and versions of bitsandbytes
(4 in one, 128 in another), so both ways are timed once when a run begins.
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
"""Numbers of rows that are timed."""
_SAMPLE_BYTES = 256 << 20
"""Bytes of the copies that are timed: more than a device's cache holds, as a token's weights are."""
_REPETITIONS = 5

Seconds = Callable[[Callable[[], object]], float]
"""The time that a call takes on the device."""


def copy_pays(
    num_rows: int, from_rows: int | None, copy_bytes: int, free_bytes: int, total_bytes: int
) -> bool:
    """Whether rollouts of `num_rows` rows should multiply by a copy: where it is faster, which it is from
    `from_rows` on (None: never), as long as a quarter of the device stays free for keys, values and prefill.
    """
    fast = from_rows is not None and num_rows >= from_rows
    return fast and copy_bytes <= free_bytes - total_bytes // 4


@contextmanager
def dequantized(
    model: nn.Module, *, num_rows: int, from_rows: int | None, kept: dict[int, torch.Tensor]
) -> Iterator[None]:
    """Within the block, NF4 layers on a CUDA device multiply by a dequantized copy where `copy_pays`, else
    by bitsandbytes' own kernels. `kept`: the copies by layer, for the caller to keep for the next time, or to
    clear at any moment.
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
    """By the copy, looked up each time: a reference of our own would keep what is to be given back."""
    weight = kept.get(index)
    if weight is None:
        return type(layer).forward(layer, x)  # type: ignore[no-any-return]
    return linear(x.to(weight.dtype), weight, layer.bias).to(x.dtype)


def rows_from_which_copies_are_faster(model: nn.Module, seconds: Seconds | None = None) -> int | None:
    """The least number of rows from which on products with dequantized weights take less time than
    bitsandbytes' own; None where there is none, or no NF4 layer, or no memory to try. Some layers are timed.
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
    """The first layers, up to `_SAMPLE_BYTES` of copies: the shapes of a model repeat themselves."""
    chosen: list[Any] = []
    size = 0
    for layer in layers:
        if size >= _SAMPLE_BYTES:
            break
        chosen.append(layer)
        size += _copy_bytes(layer)
    return chosen


def seconds_in_a_graph(call: Callable[[], object]) -> float:
    """Time of a call on the current CUDA device, without that of launching its kernels: decoding replays
    graphs. The least of several.
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
    """Bytes that can be had on a CUDA device, those that the allocator caches included, and all bytes."""
    free, total = torch.cuda.mem_get_info(device)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + cached, total
