"""`pgrpo export`, as it is typed: every format of a tiny run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pgrpo_cli.data.prepared import load_prepared
from tests.support.training import pgrpo


def exported(run: Path, to: str, folder: Path, *options: object) -> dict[str, object]:
    """What --json says."""
    result = pgrpo("export", run, "--to", to, "--output", folder, "--json", "--quiet", *options)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_merged_answers_in_plain_transformers(run: Path, tmp_path: Path) -> None:
    said = exported(run, "merged", tmp_path / "out")
    assert set(said["checked"]) == {"prompts", "greedy_equal", "mean_abs_logprob_difference"}
    assert said["checked"]["prompts"] == said["checked"]["greedy_equal"] > 2
    assert said["checked"]["mean_abs_logprob_difference"] < 1e-5
    assert sorted(map(Path, said["files"])) == sorted((tmp_path / "out").iterdir())
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert model.generation_config.eos_token_id == [1]
    prompt = load_prepared(run, "train")[0]
    ids = tokenizer.apply_chat_template(list(prompt.messages), add_generation_prompt=True)["input_ids"]
    assert tuple(ids) == prompt.input_ids
    assert model.dtype == torch.float32


def test_the_checkpoint_and_the_type_that_are_named(run: Path, tmp_path: Path) -> None:
    exported(run, "merged", tmp_path / "out", "--step", "4", "--quantization", "bf16")
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (record["step"], record["quantization"], record["run"]) == (4, "bf16", "run")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").dtype == torch.bfloat16


def test_adapter_is_what_bare_peft_loads(run: Path, tmp_path: Path) -> None:
    said = exported(run, "adapter", tmp_path / "out")
    assert said["checked"]["mean_abs_logprob_difference"] < 1e-5
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "random"


def test_by_default_it_lands_in_the_run(run: Path) -> None:
    result = pgrpo("export", run, "--to", "adapter")
    assert result.exit_code == 0
    assert str(run / "export" / "adapter" / "adapter_model.safetensors") in result.stdout
    assert "Loaded again by PEFT" in result.stderr
    # The directory is a run still.
    assert pgrpo("doctor", run).exit_code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--to", "adapter", "--quantization", "q8_0"), "saved as it was trained"),
        (("--to", "merged", "--quantization", "q8_0"), "f32, bf16, f16"),
        (("--to", "gguf", "--quantization", "q4_k_m"), "q8_0, f16"),
        (("--to", "onnx"), "is not one of"),
    ],
)
def test_what_a_format_does_not_have_is_refused(
    run: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    message: str,
) -> None:
    result = pgrpo("export", run, *options, "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_no_run_is_a_message(tmp_path: Path) -> None:
    result = pgrpo("export", tmp_path / "nothing", "--to", "merged")
    assert result.exit_code == 2
    assert "no such run" in result.stderr
