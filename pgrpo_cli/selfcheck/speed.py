"""Checks of how long rollouts take: a decoded token with and without what makes it fast."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from pgrpo_cli.model.memory.weights import base_weights, dequantized_bytes
from pgrpo_cli.model.nf4 import nf4_layers
from pgrpo_cli.model.policy import Policy
from pgrpo_cli.model.rollout.sample import sample
from pgrpo_cli.model.rollout.sampling import SamplingSettings

from . import results
from .machine import copy_rate
from .subject import GENERATIONS, Subject, plainly

_ROWS = (8, 64)
_REPEAT = 2
_LAUNCHES = ("cudaLaunch", "cuLaunch", "cudaGraphLaunch", "cuGraphLaunch", "hipLaunch", "hipGraphLaunch")
"""How the names of the calls begin that start kernels."""


def graphs(subject: Subject) -> tuple[results.Graphs, str | None]:
    """Captured in one rollout, and replayed in the next one."""
    subject.need_gpu()
    policy = subject.policy
    if not policy.paths.graphs:
        none = results.Graphs(captured=0, first_seconds=None, next_seconds=None, capture_seconds=None)
        return none, policy.paths.reason or "the probe has switched them off"
    tokens = subject.shape.completion_tokens
    first, following = (_rollout_seconds(subject, policy, _ROWS[-1], tokens) for _ in range(2))
    found = results.Graphs(
        captured=len(policy.workspace.graphs),
        first_seconds=first,
        next_seconds=following,
        capture_seconds=first - following,
    )
    failure = policy.workspace.graphs.failure
    return found, failure or (None if found.captured else "a rollout has captured no graph")


def decoding(subject: Subject) -> tuple[results.Decoding, str | None]:
    """With each number of rows, and on a GPU with and without graphs and copies of the weights."""
    policy, bandwidth = subject.policy, copy_rate(subject)
    times = [
        _decode_time(subject, variant, rows, bandwidth) for rows in _ROWS for variant in _variants(policy)
    ]
    # A copy that does not fit is not made: the same was measured twice.
    unlike = {(time.rows, time.graphs, time.copy_of_weights): time for time in times}
    return results.Decoding(prompt_tokens=subject.shape.prompt_tokens, times=tuple(unlike.values())), None


def _variants(policy: Policy) -> Iterator[Policy]:
    """The policy as it is on a CPU, which has neither; else with and without graphs and copies."""
    if policy.device.type != "cuda":
        yield policy
        return
    for graphs in (True, False) if policy.paths.graphs else (False,):
        for from_rows in (1, None):
            yield replace(policy, paths=replace(policy.paths, graphs=graphs, copy_from_rows=from_rows))


def _decode_time(subject: Subject, policy: Policy, rows: int, bandwidth: float) -> results.DecodeTime:
    """Of one token, as the difference between a long rollout and one of a single token."""
    policy.workspace.release()
    tokens = subject.shape.completion_tokens
    long, short = (
        min(_rollout_seconds(subject, policy, rows, count) for _ in range(_REPEAT + 1))
        for count in (tokens, 1)
    )
    seconds = (long - short) / (tokens - 1)
    copies = not subject.on_gpu or bool(policy.workspace.weights)
    needed = _weight_bytes(policy, copies=copies) + _cache_bytes(subject, rows, tokens)
    return results.DecodeTime(
        rows=rows,
        graphs=subject.on_gpu and policy.paths.graphs and not policy.workspace.graphs.failure,
        copy_of_weights=copies,
        token_ms=1000 * seconds,
        tokens_per_s=rows / seconds if seconds > 0 else None,
        bandwidth_share=needed / bandwidth / seconds if seconds > 0 else None,
    )


def _rollout_seconds(subject: Subject, policy: Policy, rows: int, tokens: int) -> float:
    settings, prompts = SamplingSettings(GENERATIONS, tokens), subject.prompts(rows // GENERATIONS)
    started = subject.seconds()
    sample(policy, prompts, settings, seed=0)
    return subject.seconds() - started


def _weight_bytes(policy: Policy, *, copies: bool) -> int:
    """What a token reads of the weights: all but the embeddings, of which it reads a row, unless the output
    layer is the same table.
    """
    parts = base_weights(policy)
    read = parts.total() - (0 if policy.config.tie_word_embeddings else parts["embeddings"])
    if copies:
        packed = sum(p.numel() for p in (layer.weight for layer in nf4_layers(policy.model)))
        read += dequantized_bytes(policy) - packed
    return read


def _cache_bytes(subject: Subject, rows: int, tokens: int) -> int:
    """Keys and values that a token reads: each prompt's once, and half of the completions' on average."""
    shape = subject.shape
    stored = rows // GENERATIONS * shape.prompt_tokens + rows * tokens // 2
    return stored * 2 * shape.layers * shape.key_value_heads * shape.head_size * subject.dtype.itemsize


def kernels(subject: Subject) -> tuple[results.Kernels, str | None]:
    """As torch's profiler sees the calls of the driver."""
    subject.need_gpu()
    policy = subject.policy
    plain = _launches_a_token(subject, plainly(policy))
    in_graphs = _launches_a_token(subject, policy) if policy.paths.graphs else None
    found = results.Kernels(launches_per_token=plain, launches_per_token_in_graphs=in_graphs)
    return found, None if plain else "the profiler has seen no kernel being launched"


def _launches_a_token(subject: Subject, policy: Policy) -> float:
    few, many = 2, 10

    def launches(tokens: int) -> int:
        def rollout() -> None:
            _rollout_seconds(subject, policy, _ROWS[0], tokens)

        rollout()
        return sum(name.startswith(_LAUNCHES) for name in profiled(rollout))

    return (launches(many) - launches(few)) / (many - few)


def profiled(work: Callable[[], None]) -> list[str]:
    """The names of all that torch's profiler sees."""
    activities = torch.profiler.supported_activities()
    with torch.profiler.profile(activities=activities) as profiler:
        work()
    return [event.name for event in profiler.events() or ()]
