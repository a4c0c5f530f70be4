"""A run goes on as if it had not stopped, and the check sees it where one does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.selfcheck import runs
from pgrpo_cli.selfcheck.subject import Subject
from pgrpo_cli.state.checkpoint import Checkpoint


def test_on_a_cpu_a_resumed_run_is_the_same_bit_for_bit(new_subject: Subject, subject: Subject) -> None:
    new_subject.__dict__["_built"] = subject.policy
    result, problem = runs.resume(new_subject)
    (found,) = result.runs
    assert problem is None and found.bit_for_bit and not found.deterministic
    assert (found.adapter_difference, found.differing_states) == (0.0, 0)
    assert found.adapter_change is not None and 1e-5 < found.adapter_change < 1e-2
    # Two moments, two tables of codes, two of scales, and a step, which is a number: 4 · 7 · 2 parameters.
    assert found.states > 2 * 56


def test_on_a_gpu_deterministic_kernels_are_tried_too(
    new_subject: Subject, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_subject.__dict__["_built"] = subject.policy
    seen = []
    train = runs.train

    def watched(run: object, recipe: Recipe, *rest: Any, **options: Any) -> None:
        seen.append((recipe.train.deterministic, options["checkpoint"] and options["checkpoint"].step))
        train(run, recipe, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(runs, "train", watched)
    monkeypatch.setattr(Subject, "on_gpu", property(lambda self: True))
    monkeypatch.setattr(Subject, "seconds", lambda self: 0.0)
    result, problem = runs.resume(new_subject)
    assert problem is None
    assert [(run.deterministic, run.bit_for_bit) for run in result.runs] == [(False, True), (True, True)]
    assert seen == [(False, None), (False, 2), (True, None), (True, 2)]


def test_an_optimizer_that_is_not_restored_fails(
    new_subject: Subject, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_subject.__dict__["_built"] = subject.policy
    monkeypatch.setattr(Checkpoint, "restore_optimizer", lambda *arguments: None)
    result, problem = runs.resume(new_subject)
    (found,) = result.runs
    assert not found.bit_for_bit and found.differing_states > 0
    assert "the state is not restored" in str(problem)


def states(*values: float) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    return {"a": torch.tensor(values)}, {"a/exp_avg": torch.tensor(values)}


@pytest.mark.parametrize(
    ("resumed", "same", "problem"),
    [
        (states(2.0, 5.0), True, None),
        # The step has changed weights by 1 at most: 0.4 is rounding, 0.6 is not.
        (states(2.0, 5.4), False, None),
        (states(2.0, 5.6), False, "differs by 0.6, where the whole step changed 1"),
        (({"b": torch.zeros(2)}, {}), False, "differs by inf"),
        (states(2.0, float("nan")), False, "differs by nan"),
    ],
)
def test_two_third_steps_are_compared(resumed: runs._States, same: bool, problem: str | None) -> None:
    found, told = runs._compared(states(1.0, 4.5), states(2.0, 5.0), resumed, 1.0)
    assert found.bit_for_bit is same
    assert told is None if problem is None else problem in str(told)


def test_a_step_that_changes_nothing_is_no_proof() -> None:
    assert runs._compared(states(1.0), states(1.0), states(1.0), 1.0)[1] == "a step changed nothing"
