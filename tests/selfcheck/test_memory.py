"""A run's memory beside its plan."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pgrpo_cli.selfcheck import memory
from pgrpo_cli.selfcheck.subject import Subject
from tests.support.small_device import forward_limit


@pytest.mark.parametrize(
    ("planned", "measured", "fails"),
    [
        (10 << 30, 10 << 30, False),
        (30 << 30, 10 << 30, False),
        # A twentieth and an eighth of a gibibyte less: 10 · 0.95 - 0.125 = 9.375 GiB.
        (int(9.376 * 2**30), 10 << 30, False),
        (int(9.374 * 2**30), 10 << 30, True),
        (1 << 20, 100 << 20, False),
    ],
)
def test_less_than_is_held_is_a_wrong_plan(planned: int, measured: int, fails: bool) -> None:
    assert (memory._problem(planned, measured) is not None) is fails


def test_three_steps_are_made_and_planned(
    new_subject: Subject, subject: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any
) -> None:
    """The plan is that of a GPU, and the steps are a CPU's; only what torch would count is made up."""
    new_subject.__dict__["_built"] = subject.policy
    properties = type("Properties", (), {"total_memory": 16 << 30})
    monkeypatch.setattr(Subject, "need_gpu", lambda self: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 1 << 20)
    found, problem = memory.plan(new_subject)
    assert problem is None and found.measured_bytes == 1 << 20
    # What the recipe leaves to the device, which is a CPU.
    assert (found.tokens_per_batch, found.tokens_per_micro_batch) == (8192, 1024)
    # Weights of a megabyte, and the activations of some thousand tokens.
    assert 1 << 20 < found.planned_bytes < 1 << 30
    lines = (new_subject.folder / "plan" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 3
    # Rows of 48 + 8·15 = 168 tokens, of which 1024 hold six and 400 two.
    again = Subject("cpu", "tiny", tmp_path_factory.mktemp("again"))
    again.__dict__["_built"] = subject.policy
    with forward_limit(subject.policy, 400):
        _, problem = memory.plan(again)
    assert str(problem).startswith("the budgets that a run chooses do not fit: warning: step 1: out of")
