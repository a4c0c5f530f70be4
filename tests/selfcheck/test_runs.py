"""A run goes on as if it had not stopped, and the check sees it where one does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pgrpo_cli.errors import TrainingError
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.selfcheck import runs
from pgrpo_cli.selfcheck.subject import Subject
from pgrpo_cli.state.checkpoint import checkpoint_at
from pgrpo_cli.state.run import RunDirectory


def test_on_a_cpu_a_resumed_run_is_the_same_bit_for_bit(new_subject: Subject, subject: Subject) -> None:
    new_subject.__dict__["_built"] = subject.policy
    result, problem = runs.resume(new_subject)
    (found,) = result.runs
    assert problem is None and found.bit_for_bit and not found.deterministic
    assert (found.difference, found.largest_difference, found.differing_states) == (0.0, 0.0, 0)
    # Four layers of seven linear ones, an A and a B each. Plain AdamW would have three tensors for each.
    saved = checkpoint_at(RunDirectory(new_subject.folder / "resume-False"), 3).path
    states = load_file(saved / "optimizer.safetensors")
    assert found.states == len(states)
    assert sum(name.endswith("/absmax1") for name in states) > 0


def test_on_a_gpu_deterministic_kernels_are_tried_too(
    new_subject: Subject, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_subject.__dict__["_built"] = subject.policy
    seen = []
    train = runs.train_policy

    def watched(run: object, recipe: Recipe, *rest: Any, **options: Any) -> None:
        seen.append((recipe.train.deterministic, options["checkpoint"] and options["checkpoint"].step))
        train(run, recipe, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(runs, "train_policy", watched)
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
    monkeypatch.setattr("pgrpo_cli.training.restore_optimizer", lambda *arguments: None)
    result, problem = runs.resume(new_subject)
    (found,) = result.runs
    assert not found.bit_for_bit and found.differing_states > 0
    assert "the state is not restored" in str(problem)


def states(*values: float) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    return {"a": torch.tensor(values)}, {"a/state1": torch.tensor(values)}


@pytest.mark.parametrize(
    ("resumed", "share", "problem"),
    [
        (states(3.0, 5.0), 0.0, None),
        # The step changes the weights by (2, 0), which has the norm 2: 0.4 is a fifth of it.
        (states(3.0, 5.4), 0.2, None),
        (states(3.0, 5.6), 0.3, "what a step changes differs by 30% after continuing"),
        (states(3.0, float("nan")), float("nan"), "differs by nan%"),
    ],
)
def test_two_third_steps_are_compared(resumed: runs._States, share: float, problem: str | None) -> None:
    found, told = runs._compared(states(1.0, 5.0), states(3.0, 5.0), resumed, 1.0)
    assert found.bit_for_bit is (share == 0)
    assert found.difference == pytest.approx(share, nan_ok=True)
    assert told is None if problem is None else problem in str(told)


def test_states_that_differ_are_counted_though_the_weights_are_the_same() -> None:
    found, problem = runs._compared(states(1.0), states(2.0), ({"a": torch.tensor([2.0])}, {}), 1.0)
    assert problem is None and not found.bit_for_bit and found.differing_states == 1


def test_a_step_that_changes_nothing_is_no_proof() -> None:
    assert runs._compared(states(1.0), states(1.0), states(1.0), 1.0)[1] == "a step changed nothing"


def test_what_torch_refuses_to_compute_deterministically_is_told(
    new_subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resumed(subject: Subject, deterministic: bool) -> Any:
        if deterministic:
            raise TrainingError("torch refuses an operation: cumsum")
        return runs._compared(states(1.0), states(2.0), states(2.0), 1.0)

    monkeypatch.setattr(runs, "_resumed", resumed)
    monkeypatch.setattr(Subject, "on_gpu", property(lambda self: True))
    found, problem = runs.resume(new_subject)
    assert [run.bit_for_bit for run in found.runs] == [True]
    assert problem == "with train.deterministic, torch refuses an operation: cumsum"
