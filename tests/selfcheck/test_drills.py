"""Memory that runs out: the drills on a limit that is made up, and runs that do not go on as they should."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch

from pgrpo_cli.errors import TrainingError
from pgrpo_cli.model.oom import TokenBudget
from pgrpo_cli.model.policy import Policy
from pgrpo_cli.model.rollout import sample as rollout_module
from pgrpo_cli.model.rollout.decode import decode
from pgrpo_cli.model.rollout.rounding import COARSE
from pgrpo_cli.model.rollout.workspace import Workspace
from pgrpo_cli.selfcheck import drills, results
from pgrpo_cli.selfcheck.catalogue import BY_NAME
from pgrpo_cli.selfcheck.subject import Subject, plainly
from pgrpo_cli.selfcheck.worker import attempt
from tests.support.policies import made_up_rollouts
from tests.support.replay import ReplayRecorder
from tests.support.small_device import forward_limit


@dataclass
class Tokens:
    """A limit on the tokens of a forward pass."""

    policy: Policy
    failed: int = 0

    def measured(self, work: Callable[[], Any]) -> tuple[Any, int]:
        with forward_limit(self.policy, 10**9) as seen:
            return work(), max(seen)

    @contextmanager
    def limited(self, amount: int) -> Iterator[None]:
        with forward_limit(self.policy, amount) as seen:
            yield
        self.failed += sum(tokens > amount for tokens in seen)

    def times(self) -> int:
        return self.failed


@pytest.fixture
def policy(subject: Subject) -> Policy:
    return plainly(subject.policy)


def test_rollouts_and_updates_go_on_with_the_same_result(subject: Subject, policy: Policy) -> None:
    found, problem = drills.drilled(subject, policy, Tokens(policy))
    assert problem is None
    rollout, update = found.drills
    assert (rollout.where, update.where) == ("rollout", "update")
    for drill in found.drills:
        assert drill.ran_out and drill.budget is not None and drill.budget_left is not None
        assert 0 < drill.budget_left < drill.budget
        assert drill.difference is not None and drill.difference < 0.02


def test_nothing_but_the_batch_can_be_made_smaller_in_a_rollout(
    subject: Subject, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither graphs nor copies of weights are given back in the place of a part of the batch."""
    seen: list[tuple[bool, int | None]] = []
    whole = drills.sample

    def watched(of: Policy, *arguments: Any, **options: Any) -> Any:
        seen.append((of.paths.graphs, of.paths.copy_from_rows))
        return whole(of, *arguments, **options)

    monkeypatch.setattr(drills, "sample", watched)
    paths = replace(policy.paths, graphs=True, copy_from_rows=5)
    drills.in_rollout(subject, replace(policy, paths=paths), Tokens(policy))
    assert set(seen) == {(False, None)}


class Cramped(ReplayRecorder):
    """Records nothing while `full`."""

    full, failed = False, 0

    def record(self, step: Any) -> Any:
        if self.full:
            self.failed += 1
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().record(step)


class ForGraphs(Tokens):
    """A limit that only captures run into."""

    @property
    def recorder(self) -> Any:
        return self.policy.workspace.graphs._recorder

    @contextmanager
    def limited(self, amount: int) -> Iterator[None]:
        self.recorder.full = True
        yield
        self.recorder.full = False

    def times(self) -> int:
        return self.recorder.failed  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore:decoding continues without CUDA graphs")
def test_a_rollout_goes_on_where_its_graphs_do_not_fit(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = replace(subject.policy, workspace=Workspace(Cramped()))

    def decode_on(policy: Policy) -> Any:
        return partial(decode, rounding=COARSE, workspace=policy.workspace if policy.paths.graphs else None)

    monkeypatch.setattr(rollout_module, "decode_on", decode_on)
    drill = drills.in_capture(subject, policy, ForGraphs(policy))
    assert (drill.where, drill.ran_out, drill.budget) == ("graph capture", True, None)
    assert drill.graphs == 0 and drill.difference is not None and drill.difference < 0.02
    assert drills.problem_of(drill) is None


def test_a_rollout_that_goes_on_with_other_numbers_fails(
    subject: Subject, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter, budgets = Tokens(policy), list[int]()
    drawn = rollout_module.uniforms

    def other(seed: int, *rest: Any, **options: Any) -> torch.Tensor:
        return drawn(len(budgets), *rest, **options)

    monkeypatch.setattr(rollout_module, "uniforms", other)
    lower = TokenBudget.lower

    def lowered(self: TokenBudget, failed: int) -> None:
        budgets.append(self.tokens)
        lower(self, failed)

    monkeypatch.setattr(TokenBudget, "lower", lowered)
    drill = drills.in_rollout(subject, policy, limiter)
    assert drill.ran_out and drills.problem_of(drill) == "the result is another one"


def test_what_a_drill_raises_is_told_and_the_others_go_on(
    subject: Subject, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise TrainingError("out of memory: one completion with its prompt, 64 tokens, does not fit")

    monkeypatch.setattr(drills, "in_rollout", full)
    found, problem = drills.drilled(subject, policy, Tokens(policy))
    assert [drill.where for drill in found.drills] == ["update"]
    assert problem == "rollout: out of memory: one completion with its prompt, 64 tokens, does not fit"


def test_an_error_that_is_none_of_memory_passes(
    subject: Subject, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(drills, "in_rollout", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        drills.drilled(subject, policy, Tokens(policy))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"ran_out": False, "budget_left": 64}, None),
        ({"budget_left": 64}, "memory ran out, and the budget was not lowered"),
        ({"difference": 0.06}, "the result differs by 0.06"),
        ({"difference": float("inf")}, "the result is another one"),
    ],
)
def test_what_is_wrong_with_a_drill(changes: dict[str, Any], problem: str | None) -> None:
    usual: dict[str, Any] = {"ran_out": True, "budget": 64, "budget_left": 32, "difference": 0.0}
    drill = results.Drill(where="update", graphs=None, **{**usual, **changes})
    assert drills.problem_of(drill) == problem


def test_rollouts_are_compared_as_far_as_they_are_the_same() -> None:
    one = made_up_rollouts((5, 3), (4, 4, 4, 4))
    ids = one.completion_ids_N_T.clone()
    ids[0, 2] += 1
    logprobs = one.sampling_logprobs_N_T + 0.5
    # Behind the other token nothing counts, nor the token itself.
    logprobs[0, 2:] = 100
    other = replace(one, completion_ids_N_T=ids, sampling_logprobs_N_T=logprobs)
    assert drills.rollout_difference(one, other) == 0.5
    ids = ids + 1
    assert drills.rollout_difference(one, replace(one, completion_ids_N_T=ids)) == float("inf")


def test_on_a_cpu_it_is_skipped(subject: Subject) -> None:
    result = attempt(BY_NAME["out-of-memory"], subject)
    assert (result.status, result.reason) == ("skipped", "needs a GPU")


def test_the_limit_of_a_device_is_that_of_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """4 GiB are held of 16, and 2 more are allowed: 6/16 of the device. Afterwards all of it is."""
    said: list[float] = []
    total = type("Properties", (), {"total_memory": 16 << 30})
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 4 << 30)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 7 << 30)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: total)
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: {"num_ooms": 3})
    limit = "set_per_process_memory_fraction"
    monkeypatch.setattr(torch.cuda, limit, lambda share, device: said.append(share))
    memory = drills.DeviceMemory(torch.device("cuda", 0))
    assert memory.measured(lambda: "done") == ("done", 3 << 30) and memory.times() == 3
    with pytest.raises(KeyError), memory.limited(2 << 30):
        assert said == [6 / 16]
        raise KeyError
    assert said == [6 / 16, 1.0]
