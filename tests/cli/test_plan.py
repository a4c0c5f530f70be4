"""`pgrpo plan` from the outside: what it prints, its JSON, and what it leaves alone."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.gpus import fake_gpus
from tests.support.training import TINY, pgrpo, write_tiny


def planned(*arguments: object) -> dict[str, Any]:
    result = pgrpo("plan", *arguments, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)  # type: ignore[no-any-return]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_tiny(tmp_path)


def test_a_table_the_cards_and_this_machine(recipe: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    result = pgrpo("plan", recipe)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].strip() == "tiny on a CPU, in GiB"
    assert lines[1].split() == ["part", "load", "rollout", "update"]
    assert any(line.startswith("in all") for line in lines)
    for gib in (8, 12, 16, 24, 80):
        assert any(line.startswith(f"{gib} GB GPU: fits, ") for line in lines)
    assert lines[-1].startswith("This machine's memory, ") and lines[-1].endswith(": fits")
    assert "data.max_prompt_tokens (1024)" in result.stdout
    assert sorted(tmp_path.iterdir()) == before


def test_json_adds_up(recipe: Path) -> None:
    found = planned(recipe)
    assert found["device"] == "cpu"
    assert set(found["phases"]) == {"load", "rollout", "update"}
    for phase in found["phases"].values():
        assert phase["total_bytes"] == sum(phase["parts"].values())
    assert found["tensors_bytes"] == max(phase["total_bytes"] for phase in found["phases"].values())
    assert found["peak_bytes"] > found["tensors_bytes"]
    assert [card["gib"] for card in found["cards"]] == [8, 12, 16, 24, 80]
    assert found["here"]["fits"] is True
    assert found["remedies"] == []
    assert found["longest_prompt"] is None
    assert found["batch"]["prompt_tokens"] == 1024


def test_prepared_prompts_count_as_long_as_they_are(recipe: Path) -> None:
    assert pgrpo("prepare", recipe).exit_code == 0
    found = planned(recipe)
    # <|im_start|>user\nseldom 0<|im_end|>\n<|im_start|>assistant\n: three special tokens and 5 + 8 + 1 + 10
    # bytes; of two digits one more.
    longest = found["longest_prompt"]
    assert longest == found["batch"]["prompt_tokens"] == 27
    assert "as long as they are" not in pgrpo("plan", recipe).stdout
    # Prepared otherwise: those lengths are of another run.
    assert planned(recipe, "--set", "model.system_prompt=Be brief.")["longest_prompt"] is None
    assert planned(recipe, "--run-dir", "elsewhere")["longest_prompt"] is None


def test_overrides_and_the_other_device(recipe: Path) -> None:
    few = planned(recipe, "--set", "train.tokens_per_micro_batch=1100")
    assert few["phases"]["update"]["total_bytes"] < planned(recipe)["phases"]["update"]["total_bytes"]
    found = planned(recipe, "--device", "cuda")
    assert (found["device"], found["cards"][0]["fits"]) == ("cuda", True)
    title = pgrpo("plan", recipe, "--device", "cuda").stdout.splitlines()[0]
    assert title.strip() == "tiny on a GPU, in GiB"


@pytest.mark.parametrize(
    ("arguments", "gib"),
    [
        (("--set", "model.device=cuda:1"), 24),
        (("--device", "cuda", "--set", "model.device=cuda:1"), 24),
        # `auto` takes the first GPU. So does a plan for a GPU where the recipe says cpu.
        ((), 8),
        (("--device", "cuda", "--set", "model.device=cpu"), 8),
    ],
)
def test_the_memory_is_that_of_the_gpu_that_a_run_takes(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], gib: int
) -> None:
    # It looks for CUDA when it is imported, so it must be imported before the GPUs are faked.
    importlib.import_module("bitsandbytes")
    fake_gpus(monkeypatch, (8, 0), (8, 0), gib=(8, 24))
    assert planned(recipe, *arguments)["here"]["gib"] == gib
    assert f"This machine's GPU, {gib} GB: fits" in pgrpo("plan", recipe, *arguments).stdout


def test_what_does_not_fit_comes_with_remedies(tmp_path: Path) -> None:
    # Micro-batches of 12,000 tokens in rows of 4,000, 24 layers of 512 features in float32: over 8 GB.
    shape = {"hidden_size": 512, "num_layers": 24, "num_heads": 8, "context": 8192}
    recipe = write_tiny(
        tmp_path,
        model={**TINY["model"], "random": shape},
        data={**TINY["data"], "max_prompt_tokens": 4000},
        train={**TINY["train"], "tokens_per_micro_batch": 12_000},
    )
    found = planned(recipe, "--device", "cuda")
    assert found["cards"][0]["fits"] is False
    changes = [change for remedy in found["remedies"] for change in remedy["set"]]
    assert "train.gradient_checkpointing=true" in changes
    assert all(remedy["peak_bytes"] < found["peak_bytes"] for remedy in found["remedies"])
    lines = pgrpo("plan", recipe, "--device", "cuda").stdout.splitlines()
    assert "8 GB GPU: does not fit" in lines
    remedy = next(line for line in lines if line.startswith("  --set train.gradient_checkpointing=true: "))
    assert "GiB, fits " in remedy


def test_a_wrong_recipe_or_model_is_exit_code_2(recipe: Path, tmp_path: Path) -> None:
    result = pgrpo("plan", recipe, "--set", "train.steps=0")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "train.steps" in result.stderr
    result = pgrpo("plan", recipe, "--set", f"model.id={tmp_path}")
    assert (result.exit_code, "no config.json" in result.stderr) == (2, True)


def test_a_device_that_no_plan_is_for(recipe: Path) -> None:
    result = pgrpo("plan", recipe, "--device", "cuda:0")
    assert result.exit_code == 2
    assert "error: Invalid value for '--device': 'cuda:0' is not one of 'cuda', 'cpu'." in result.stderr
