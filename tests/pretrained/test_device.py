"""Which device is taken, what is said about it, and what is refused rather than done on the CPU."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from pgrpo_cli.errors import ModelError
from pgrpo_cli.pretrained import device
from pgrpo_cli.pretrained.device import choose_device, describe, has_bfloat16, set_up
from tests.support.gpus import fake_driver, fake_gpus

OLD = "The NVIDIA driver on your system is too old (found version 11040)."


@pytest.fixture(autouse=True)
def _bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No GPU and no driver, whatever the machine of the tests has."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(device, "_DRIVER", tmp_path / "none")
    monkeypatch.setattr(device, "_DEVICES", tmp_path / "none")
    monkeypatch.setattr(device.shutil, "which", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_the_driver_of_a_gpu_that_a_container_has_not_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_driver(monkeypatch, tmp_path, OLD)
    (tmp_path / "nvidia0").unlink()
    assert choose_device() == torch.device("cpu")


def test_without_a_gpu_the_cpu_is_taken_and_a_gpu_is_refused() -> None:
    assert choose_device() == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(ModelError, match=r"the device cuda was asked for.*there is cpu \("):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("wish", "found"), [("auto", "cuda:0"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1"), ("cpu", "cpu")]
)
def test_with_two_gpus(monkeypatch: pytest.MonkeyPatch, wish: str, found: str) -> None:
    fake_gpus(monkeypatch, (8, 0), (7, 5))
    assert str(choose_device(wish)) == found


def test_a_gpu_too_many_is_refused_with_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpus(monkeypatch, (8, 0), (7, 5))
    with pytest.raises(ModelError, match=r"cuda:2 .*cpu, cuda:0 \(Card 0\), cuda:1 \(Card 1\)"):
        choose_device("cuda:2")


@pytest.mark.parametrize("wish", ["auto", "cuda", "cuda:1"])
@pytest.mark.parametrize("warned", [True, False])
def test_a_gpu_that_torch_cannot_use_is_no_reason_for_the_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wish: str, warned: bool
) -> None:
    """Also where the filters of the command line drop the warning, and where it has come before."""
    fake_driver(monkeypatch, tmp_path, OLD)
    if warned:
        monkeypatch.setattr(torch.cuda, "init", lambda: None)

        def is_available() -> bool:
            warnings.warn(f"CUDA initialization: {OLD}", UserWarning, stacklevel=1)
            return False

        monkeypatch.setattr(torch.cuda, "is_available", is_available)
    with warnings.catch_warnings(), pytest.raises(ModelError) as refusal:
        warnings.simplefilter("ignore")
        choose_device(wish)
    message = refusal.value.message
    assert OLD in message and "the driver is 470.82.01" in message and "built for" in message
    assert "more" not in message
    assert "--device cpu" in str(refusal.value.remedy) and refusal.value.exit_code == 2
    assert choose_device("cpu") == torch.device("cpu")


def test_a_gpu_that_is_counted_and_does_not_start_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpus(monkeypatch, (8, 0))

    def init() -> None:
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable")

    monkeypatch.setattr(torch.cuda, "init", init)
    for wish in ("auto", "cuda"):
        with pytest.raises(ModelError, match="torch cannot use it: CUDA error: all CUDA-capable devices"):
            choose_device(wish)


@pytest.mark.parametrize("sign", ["node", "program"])
def test_other_signs_of_a_gpu_count_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sign: str) -> None:
    if sign == "node":
        (tmp_path / "nvidia1").touch()
        monkeypatch.setattr(device, "_DEVICES", tmp_path)
    else:
        monkeypatch.setattr(device.shutil, "which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(ModelError, match="the driver is of an unknown version"):
        choose_device()


@pytest.mark.parametrize("value", ["", "-1"])
def test_hidden_gpus_are_a_deliberate_no(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str) -> None:
    fake_driver(monkeypatch, tmp_path, OLD)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert choose_device() == torch.device("cpu")
    with pytest.raises(ModelError, match="CUDA_VISIBLE_DEVICES hides all GPUs"):
        choose_device("cuda")


@pytest.mark.parametrize(
    "line",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  535.104.05  Release Build",
    ],
)
def test_the_drivers_version_in_both_of_its_forms(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str
) -> None:
    fake_driver(monkeypatch, tmp_path, OLD)
    (tmp_path / "version").write_text(line)
    with pytest.raises(ModelError, match=r"the driver is 535\.104\.05\)"):
        choose_device()


def test_a_gpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpus(monkeypatch, (8, 0), (7, 5))
    assert describe(torch.device("cuda", 1)) == (
        "Device: cuda:1, Card 1, 16.0 GiB of memory (12.0 free), compute capability 7.5, "
        "computes in float16, not bfloat16."
    )
    assert describe(torch.device("cuda", 0)).endswith("8.0, computes in bfloat16 and float16.")


def test_a_cpu_is_described(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cpu").write_text("processor\t: 0\nmodel name\t: A Processor\nflags\t\t: fpu avx512_bf16\n")
    (tmp_path / "memory").write_text("MemTotal:  2 kB\nMemAvailable:    3145728 kB\n")
    monkeypatch.setattr(device, "_CPU_INFO", tmp_path / "cpu")
    monkeypatch.setattr(device, "_MEMORY_INFO", tmp_path / "memory")
    text = describe(torch.device("cpu"))
    # 3145728 kB are 3 GiB.
    assert text.startswith("Device: cpu, A Processor, ") and "(3.0 free), with bfloat16" in text
    monkeypatch.setattr(device, "_CPU_INFO", tmp_path / "gone")
    monkeypatch.setattr(device, "_MEMORY_INFO", tmp_path / "gone")
    assert describe(torch.device("cpu")).endswith("GiB of memory.")


def test_bfloat16_is_native_from_8_0_on(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpus(monkeypatch, (8, 0), (7, 5))
    found = [has_bfloat16(torch.device(name)) for name in ("cuda:0", "cuda:1", "cpu")]
    assert found == [True, False, True]


def test_the_gpu_that_is_chosen_becomes_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA graphs are captured on the current device, whatever device their tensors are on."""
    taken: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    fake_gpus(monkeypatch, (8, 0), (7, 5))
    for wish in ("cpu", "cuda:1", "cuda"):
        set_up(choose_device(wish))
    assert taken == [torch.device("cuda", 1), torch.device("cuda", 0)]


def test_a_gpu_computes_without_cudnns_attention_and_a_cpu_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "set_device", lambda at: None)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        set_up(torch.device("cpu"))
        assert torch.backends.cuda.cudnn_sdp_enabled()
        set_up(torch.device("cuda:1"))
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        # The others stay.
        assert torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.mem_efficient_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
