"""What is installed, what computes, and what it reaches; a device that is absent or too old is a line."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from pgrpo_cli.selfcheck import machine
from pgrpo_cli.selfcheck.catalogue import BY_NAME
from pgrpo_cli.selfcheck.subject import Subject
from pgrpo_cli.selfcheck.worker import attempt
from tests.support.gpus import fake_driver, fake_gpus


@pytest.fixture(autouse=True)
def _visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_versions_and_what_is_missing(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    found, problem = machine.versions(subject)
    assert problem is None and found.torch == torch.__version__ and found.driver is None
    monkeypatch.setattr(machine, "version", lambda package: version("no-such-package"))
    found, problem = machine.versions(subject)
    assert problem == "not installed: transformers, peft, bitsandbytes"


def test_a_cpu(subject: Subject) -> None:
    found, problem = machine.device(subject)
    assert problem is None
    assert (found.device, found.shape, found.capability) == ("cpu", "tiny", None)
    assert found.says.startswith("Device: cpu") and 0 < found.free_bytes < found.total_bytes


def test_a_gpu_that_is_absent_fails_once_and_the_rest_is_skipped(tmp_path: Path) -> None:
    subject = Subject("cuda:3", None, tmp_path)
    result = attempt(BY_NAME["device"], subject)
    assert result.status == "failed" and result.trace is None
    assert str(result.reason).startswith("the device cuda:3 was asked for, and there is none")
    for name in ("rates", "gradient", "model", "resume", "probe"):
        result = attempt(BY_NAME[name], subject)
        assert (result.status, result.reason) == ("skipped", "there is no device that can be used")
    assert attempt(BY_NAME["versions"], subject).status == "ok"
    assert subject.recover()


def test_a_driver_that_is_too_old_is_told_in_torchs_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_driver(monkeypatch, tmp_path, "The NVIDIA driver on your system is too old (found version 11040).")
    subject = Subject("auto", None, tmp_path)
    assert machine.versions(subject)[0].driver == "470.82.01"
    result = attempt(BY_NAME["device"], subject)
    assert result.status == "failed"
    assert "too old (found version 11040)" in str(result.reason) and "470.82.01" in str(result.reason)


@pytest.mark.parametrize(
    ("capability", "dtype", "problem"),
    [
        ((5, 2), "float16", "torch {} has no code for it"),
        ((7, 5), "float16", None),
        ((8, 6), "bfloat16", None),
    ],
)
def test_a_gpu_is_described_though_it_is_too_old(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    dtype: str,
    problem: str | None,
) -> None:
    fake_gpus(monkeypatch, capability)
    found, told = machine.device(Subject("auto", None, tmp_path))
    assert (found.device, found.compute_dtype, found.shape) == ("cuda:0", dtype, "8b")
    assert found.capability == "{}.{}".format(*capability) and found.total_bytes == 16 << 30
    assert told is None if problem is None else problem.format(torch.__version__) in str(told)


def test_rates_are_what_the_clock_says(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece of work takes half a second: twice the bytes, and 2·1024³ operations, in that time."""
    times = iter(range(10_000))
    monkeypatch.setattr(machine, "memory_of", lambda device: (1 << 20, 1 << 30))
    monkeypatch.setattr(Subject, "seconds", lambda self: next(times) / 2)
    found, problem = machine.rates(subject)
    assert problem is None
    # A sixteenth of the free mebibyte, read and written.
    assert found.copy_rate == 4 * (1 << 16)
    assert found.half_rate == found.float32_rate == 4 * 1024**3
    assert found.half_dtype == "bfloat16"


def test_real_rates_are_rates_of_a_machine(subject: Subject) -> None:
    found, _ = machine.rates(subject)
    assert found.copy_rate is not None and 1e8 < found.copy_rate < 1e13
