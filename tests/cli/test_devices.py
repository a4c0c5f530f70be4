"""Which device commands take: what they say about it, and what they refuse before they begin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.cli import sweep as sweep_module
from pgrpo_cli.model.load import precision
from pgrpo_cli.pretrained import device
from pgrpo_cli.recipe.load import load_resolved
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.verbs import train as verb
from tests.support.gpus import fake_driver, fake_gpus
from tests.support.training import TINY, metrics, pgrpo, trained, write_tiny

OLD = "The NVIDIA driver on your system is too old (found version 11040)."


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return write_tiny(tmp_path)


def test_commands_that_load_a_model_name_the_device(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    notes = trained(recipe, run, "--set", "train.steps=1").stderr.splitlines()
    assert notes[0].startswith("Device: cpu, ")
    evaluated = pgrpo("eval", run)
    assert evaluated.exit_code == 0 and "Device: cpu, " in evaluated.stderr
    # Nothing is loaded the second time.
    assert "Device:" not in pgrpo("eval", run).stderr
    assert "Device:" not in pgrpo("eval", run, "--fresh", "--quiet").stderr
    answers = tmp_path / "picks"
    answers.write_text("1\n")
    for words in (
        ("taste", run, "--user", "ana", "--between", "samples", "--answers", answers),
        ("export", run, "--to", "adapter", "--output", tmp_path / "adapter"),
    ):
        result = pgrpo(*words)
        assert result.exit_code == 0 and "Device: cpu, " in result.stderr, words


@pytest.mark.parametrize("command", ["train", "plan"])
def test_a_gpu_that_torch_cannot_use_ends_the_command(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    fake_driver(monkeypatch, tmp_path, OLD)
    refused = pgrpo(command, recipe)
    assert refused.exit_code == 2 and OLD in refused.stderr and "--device cpu" in refused.stderr
    assert not (tmp_path / "runs" / "tiny" / "data").exists()
    assert pgrpo(command, recipe, "--device", "cpu").exit_code == 0


def test_a_run_goes_on_where_another_device_is_named(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained(recipe, run, "--set", "train.steps=2", "--set", "model.device=cpu")
    trained(recipe, run, "--set", "train.steps=3", "--device", "cpu", "--set", "model.device=cuda:7")
    assert len(metrics(run)) == 3
    # The option named none for `eval`: that of the run's own recipe counts.
    refused = pgrpo("eval", run)
    assert refused.exit_code == 2 and "the device cuda:7 was asked for" in refused.stderr
    assert pgrpo("eval", run, "--device", "cpu").exit_code == 0


def test_a_device_that_cannot_be_is_refused(recipe: Path) -> None:
    for words in (["--device", "gpu"], ["--set", "model.device=gpu"]):
        refused = pgrpo("train", recipe, *words)
        assert refused.exit_code == 2
        assert "gpu" in refused.stderr and "; must be auto, cpu, cuda, or cuda:" in refused.stderr


def test_plan_and_train_refuse_what_the_gpu_cannot_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = write_tiny(tmp_path, model={**TINY["model"], "compute_dtype": "bfloat16"})
    fake_gpus(monkeypatch, (7, 5))
    for command in ("plan", "train"):
        refused = pgrpo(command, recipe)
        assert refused.exit_code == 2
        assert "Card 0, compute capability 7.5): model.compute_dtype is bfloat16" in refused.stderr


def test_rewards_try_asks_for_a_device_only_where_a_model_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fake_driver(monkeypatch, tmp_path, OLD)
    words = ["--text", "Hello.", "--group", "often"]
    simple = pgrpo("rewards", "try", write_tiny(tmp_path), *words)
    assert (simple.exit_code, simple.stderr) == (0, "")
    recipe = write_tiny(tmp_path, rewards=[{"type": "embedding", "model": "./gone", "reference_column": "a"}])
    refused = pgrpo("rewards", "try", recipe, *words)
    assert refused.exit_code == 2 and OLD in refused.stderr
    on_cpu = pgrpo("rewards", "try", recipe, *words, "--device", "cpu")
    assert "Device: cpu, " in on_cpu.stderr and "gone" in on_cpu.stderr


def test_a_sweep_passes_the_device_on(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(sweep_module._Child, "call", lambda self, words: called.append(list(words)) or 0)
    assert pgrpo("sweep", recipe, "--seeds", "2", "--eval", "--device", "cpu").exit_code == 0
    assert len(called) == 4 and all(words[-2:] == ["--device", "cpu"] for words in called)


def test_the_sign_of_a_driver_is_looked_for_where_linux_has_it() -> None:
    assert (str(device._DRIVER), str(device._DEVICES)) == ("/proc/driver/nvidia/version", "/dev")


def test_a_run_records_its_compute_dtype_and_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe says auto, and where it is resolved another time there would be another one."""
    auto = {key: value for key, value in TINY["model"].items() if key != "compute_dtype"}
    recipe, run = write_tiny(tmp_path, model=auto), tmp_path / "run"
    trained(recipe, run, "--set", "train.steps=1")
    recorded = json.loads((run / "paths.json").read_text())["compute_dtype"]
    assert (recorded, load_resolved(run / "recipe.yaml").model.compute_dtype) == ("bfloat16", "auto")
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: False)
    seen: list[str] = []
    real = verb.load_policy

    def load_policy(recipe: Recipe, **options: Any) -> Any:
        seen.append(recipe.model.compute_dtype)
        return real(recipe, **options)

    monkeypatch.setattr(verb, "load_policy", load_policy)
    trained(recipe, run, "--set", "train.steps=2")
    assert seen == ["bfloat16"]
    assert pgrpo("eval", run, "--quiet").exit_code == 0
    evaluation = json.loads((run / "eval" / "step-000002.json").read_text())
    assert evaluation["recipe"]["model"]["compute_dtype"] == "bfloat16"


def test_budgets_that_are_left_to_the_device_are_recorded_and_kept(tmp_path: Path) -> None:
    train = {key: value for key, value in TINY["train"].items() if key != "tokens_per_micro_batch"}
    recipe, run = write_tiny(tmp_path, train=train), tmp_path / "run"
    trained(recipe, run, "--set", "train.steps=1")
    paths = json.loads((run / "paths.json").read_text())
    assert (paths["tokens_per_batch"], paths["tokens_per_micro_batch"]) == (8192, 1024)
    (run / "paths.json").write_text(json.dumps({**paths, "tokens_per_micro_batch": 700}))
    trained(recipe, run, "--set", "train.steps=2")
    first, second = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    assert first["tokens"]["budgets"] == {"rollout": 8192, "training": 1024}
    assert second["tokens"]["budgets"] == {"rollout": 8192, "training": 700}
    # A recipe of numbers is another one.
    result = pgrpo("train", recipe, "--run-dir", run, "--set", "train.tokens_per_micro_batch=900")
    assert result.exit_code == 2 and "train.tokens_per_micro_batch: 'auto' in the run" in result.stderr
    assert pgrpo("eval", run, "--quiet").exit_code == 0
