"""How long tokens take, and what is counted: on a CPU, and with graphs that are made up."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from pgrpo_cli.model.policy import Policy
from pgrpo_cli.model.rollout import sample as rollout_module
from pgrpo_cli.model.rollout.decode import decode
from pgrpo_cli.model.rollout.rounding import COARSE
from pgrpo_cli.model.rollout.workspace import Workspace
from pgrpo_cli.selfcheck import speed
from pgrpo_cli.selfcheck.catalogue import BY_NAME
from pgrpo_cli.selfcheck.subject import Subject
from pgrpo_cli.selfcheck.worker import attempt
from tests.support.replay import BrokenRecorder, ReplayRecorder

WEIGHTS = 4 * (2 * 256**2 + 2 * 256 * 128 + 3 * 256 * 512)
"""Entries of all quantized layers."""


@pytest.fixture
def with_graphs(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The subject with a policy that decodes as on a GPU, by the recorder that is given."""
    built = subject.policy

    def decode_on(policy: Policy) -> Any:
        return partial(decode, rounding=COARSE, workspace=policy.workspace if policy.paths.graphs else None)

    def with_recorder(recorder: ReplayRecorder, **paths: Any) -> Subject:
        policy = replace(built, workspace=Workspace(recorder), paths=replace(built.paths, **paths))
        monkeypatch.setattr(Subject, "policy", property(lambda self: policy))
        return subject

    monkeypatch.setattr(rollout_module, "decode_on", decode_on)
    monkeypatch.setattr(Subject, "need_gpu", lambda self: None)
    return with_recorder


def test_graphs_are_counted(with_graphs: Any) -> None:
    found, problem = speed.graphs(with_graphs(ReplayRecorder()))
    # 15 tokens after the first one, whose keys all lie within the first bucket of 64.
    assert problem is None and found.captured == 1
    assert found.capture_seconds == found.first_seconds - found.next_seconds


@pytest.mark.filterwarnings("ignore:decoding continues without CUDA graphs")
def test_a_capture_that_fails_is_a_failure(with_graphs: Any) -> None:
    found, problem = speed.graphs(with_graphs(BrokenRecorder()))
    assert found.captured == 0
    assert problem == "RuntimeError: operation not permitted when stream is capturing"


def test_graphs_that_the_probe_has_switched_off_are_a_failure(with_graphs: Any) -> None:
    subject = with_graphs(ReplayRecorder(), graphs=False, reason="in CUDA graphs, they are off by 1")
    assert speed.graphs(subject)[1] == "in CUDA graphs, they are off by 1"


def test_a_rollout_without_a_graph_is_a_failure(with_graphs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout_module, "decode_on", lambda policy: decode)
    assert speed.graphs(with_graphs(ReplayRecorder()))[1] == "a rollout has captured no graph"


def test_a_token_is_timed_by_the_difference_of_two_rollouts(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollout takes a second for the prompts and a quarter for each token behind the first one."""
    monkeypatch.setattr(speed, "copy_rate", lambda subject: 1e9)
    monkeypatch.setattr(speed, "_rollout_seconds", lambda s, policy, rows, tokens: 1 + (tokens - 1) / 4)
    found, problem = speed.decoding(subject)
    assert problem is None and found.prompt_tokens == 48
    assert [(time.rows, time.graphs, time.copy_of_weights) for time in found.times] == [
        (8, False, True),
        (64, False, True),
    ]
    for time in found.times:
        assert time.token_ms == 250 and time.tokens_per_s == 4 * time.rows
        # Two bytes of a weight, the table of the output layer and norms; of the cache, in each of four
        # layers, keys and values of two heads of 64: prompts of 48, and half of 16 tokens a row.
        others = 512 * 256 + 4 * 640 + 256
        cache = (time.rows // 8 * 48 + time.rows * 16 // 2) * 2 * 4 * 2 * 64
        # The scales of blocks are small beside the weights, and stay counted.
        share = 2 * (WEIGHTS + others + cache) / 1e9 / 0.25
        assert time.bandwidth_share == pytest.approx(share, rel=0.02)


def test_real_tokens_take_time(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_ROWS", (8,))
    monkeypatch.setattr(speed, "copy_rate", lambda subject: 1e9)
    (time,) = speed.decoding(subject)[0].times
    assert time.token_ms is not None and 0.1 < time.token_ms < 10_000


def test_on_a_gpu_all_is_measured_with_and_without(subject: Subject) -> None:
    policy = replace(subject.policy, device=torch.device("cuda", 0))
    both = [(v.paths.graphs, v.paths.copy_from_rows) for v in speed._variants(policy)]
    assert both == [(True, 1), (True, None), (False, 1), (False, None)]
    off = replace(policy, paths=replace(policy.paths, graphs=False))
    assert [v.paths.graphs for v in speed._variants(off)] == [False, False]


def test_launches_are_counted_a_token(with_graphs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rollout launches 50 kernels for its prompts, and 30 for each token; a graph is one launch."""
    subject = with_graphs(ReplayRecorder())

    def profiled(work: Any) -> list[str]:
        work()
        tokens, graphs = seen[-1]
        launches = ["cudaGraphLaunch"] * tokens if graphs else ["cudaLaunchKernelExC"] * (30 * tokens)
        return ["aten::mm", "cudaMemcpyAsync", *["cudaLaunchKernel"] * 50, *launches]

    seen: list[tuple[int, bool]] = []
    monkeypatch.setattr(speed, "profiled", profiled)
    monkeypatch.setattr(
        speed, "_rollout_seconds", lambda s, policy, rows, tokens: seen.append((tokens, policy.paths.graphs))
    )
    found, problem = speed.kernels(subject)
    assert problem is None
    assert (found.launches_per_token, found.launches_per_token_in_graphs) == (30, 1)


def test_a_profiler_that_sees_nothing_is_a_failure(with_graphs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "profiled", lambda work: ["aten::mm"])
    monkeypatch.setattr(speed, "_rollout_seconds", lambda *_: 0.0)
    found, problem = speed.kernels(with_graphs(ReplayRecorder()))
    assert found.launches_per_token == 0
    assert problem == "the profiler has seen no kernel being launched"


def test_the_profiler_sees_operations_on_a_cpu() -> None:
    names = speed.profiled(lambda: torch.ones(4, 4) @ torch.ones(4, 4))
    assert "aten::mm" in names


@pytest.mark.parametrize("name", ["graphs", "kernels"])
def test_what_a_cpu_has_not_is_skipped(subject: Subject, name: str) -> None:
    result = attempt(BY_NAME[name], subject)
    assert (result.status, result.reason) == ("skipped", "needs a GPU")
