"""Checks of what a run computes pass on this machine, and fail where it computes something else."""

from __future__ import annotations

import pytest
import torch

from pgrpo_cli.model.load import probe as probe_module
from pgrpo_cli.model.update import packing
from pgrpo_cli.selfcheck import exactness
from pgrpo_cli.selfcheck.catalogue import BY_NAME
from pgrpo_cli.selfcheck.subject import Subject
from pgrpo_cli.selfcheck.worker import attempt


def test_gradients_on_nf4_are_those_on_dequantized_weights(new_subject: Subject) -> None:
    found, problem = exactness.gradient(new_subject)
    assert problem is None and found.error is not None and found.error < 0.01
    # Two of the layers, seven linear ones each.
    assert found.layers == 14


def test_a_gradient_that_is_lost_fails(new_subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = exactness._adapter_gradient
    calls = iter([0.1])
    monkeypatch.setattr(exactness, "_adapter_gradient", lambda *a: whole(*a) * next(calls, 1.0))
    found, problem = exactness.gradient(new_subject)
    # A tenth is left: 90 % are lost.
    assert found.error == pytest.approx(0.9, abs=0.01)
    assert problem == "gradients on NF4 weights are off by 90.0%: a run would not learn what it should"


def test_a_model_that_is_not_quantized_is_no_proof(
    new_subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = new_subject.recipe(model={"quantization": {"type": "none"}})
    monkeypatch.setattr(Subject, "recipe", lambda self, **sections: recipe)
    assert exactness.gradient(new_subject)[1] == "no layer of the model is quantized"


def test_the_model_is_told_of(subject: Subject) -> None:
    found, problem = exactness.model(subject)
    assert problem is None and found.packed and found.shared_prefix
    # A layer: q and o 256·256, k and v 256·128, three of 256·512, norms 2·256 + 2·64; and a table, a norm.
    assert found.parameters == 4 * (2 * 256**2 + 2 * 256 * 128 + 3 * 256 * 512 + 640) + 512 * 256 + 256
    # r · (in + out) of each of a layer's seven.
    assert found.adapter_parameters == 4 * 8 * (2 * 512 + 2 * 384 + 3 * 768)
    assert found.held_bytes is None and subject.build_seconds > 0 and subject.probe_seconds > 0


def test_a_model_that_does_not_fit_is_built_once(
    new_subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("pgrpo_cli.selfcheck.subject.build_base", full)
    result = attempt(BY_NAME["model"], new_subject)
    assert result.status == "failed" and result.trace is None
    assert str(result.reason).startswith("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert new_subject.recover()
    result = attempt(BY_NAME["probe"], new_subject)
    assert (result.status, result.reason) == ("skipped", "the model could not be built")


def test_a_model_that_failed_in_another_process_is_not_tried_again(new_subject: Subject) -> None:
    again = Subject("cpu", "tiny", new_subject.folder, failed={"model": "its process was ended by SIGKILL"})
    assert attempt(BY_NAME["probe"], again).status == "skipped"


def test_all_seeds_pass(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exactness, "_SEEDS_CPU", 2)
    found, problem = exactness.probe(subject)
    assert problem is None and (found.seeds, found.passed) == (2, 2)
    for mean, worst, most in (
        (found.packed_mean, found.packed_worst_mean, found.packed_max),
        (found.prefix_mean, found.prefix_worst_mean, found.prefix_max),
    ):
        assert mean is not None and worst is not None and most is not None
        # Packed rows may agree with padded ones to the last digit.
        assert 0 <= mean <= worst <= most < 0.1
    assert found.prefix_max is not None and found.prefix_max > 0


def test_a_gpu_is_tried_with_twenty_seeds(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Subject, "on_gpu", property(lambda self: True))
    found, problem = exactness.probe(subject)
    assert problem is None and (found.seeds, found.passed) == (20, 20)


def test_positions_that_are_wrong_fail(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = packing.pack
    monkeypatch.setattr(exactness, "_SEEDS_CPU", 2)

    def off_by_one(*arguments: object, **options: object) -> packing.Packed:
        packed = whole(*arguments, **options)  # type: ignore[arg-type]
        packed.position_ids_R_L.add_(packed.segments_R_L > 0)
        return packed

    monkeypatch.setattr(probe_module, "pack", off_by_one)
    found, problem = exactness.probe(subject)
    assert (found.seeds, found.passed) == (2, 0)
    assert str(problem).startswith("for 2 of 2 seeds: packed log-probabilities are off by")


def test_seeds_end_with_the_time(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exactness, "_PROBE_SECONDS", 1e-6)
    found, problem = exactness.probe(subject)
    assert (found.seeds, found.passed, problem) == (1, 1, None)
