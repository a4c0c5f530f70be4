"""`--merge-into`: a run on NF4 weights is exported as it was evaluated, or with the original weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from pgrpo_cli.exports.gguf_file import Gguf
from pgrpo_cli.exports.lora_tensors import interleaved
from pgrpo_cli.exports.merged import load_base
from pgrpo_cli.exports.random_gguf import write_random
from pgrpo_cli.model.load.base_model import load_base_model
from pgrpo_cli.model.nf4 import dequantize
from pgrpo_cli.recipe.model import ModelSection, RandomModel
from tests.support.training import TINY, pgrpo, trained, write_tiny

# NF4 rounds blocks of 64 numbers.
SHAPE = {"hidden_size": 64, "num_layers": 2, "num_heads": 4}
MODEL = {"id": "random", "quantization": {"type": "nf4"}, "compute_dtype": "float32", "random": SHAPE}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps on NF4 weights; the adapter is on queries alone, of all the layers that are rounded."""
    folder = tmp_path_factory.mktemp("rounded")
    recipe = write_tiny(
        folder,
        model=MODEL,
        adapter={**TINY["adapter"], "target_modules": ["q_proj"]},
        train={**TINY["train"], "steps": 2, "learning_rate": 0.05},
    )
    trained(recipe, folder / "run")
    return folder / "run"


def record(run: Path, folder: Path, *options: object) -> Any:
    """The export.json of an export to `folder`."""
    result = pgrpo("export", run, "--output", folder, "--quantization", "f32", "--quiet", *options)
    assert result.exit_code == 0, result.stderr
    return json.loads((folder / "export.json").read_text())


@pytest.mark.parametrize("to", ["merged", "gguf"])
def test_what_was_evaluated_is_exported_unless_the_original_is_wanted(
    run: Path, tmp_path: Path, to: str
) -> None:
    default = record(run, tmp_path / "default", "--to", to)
    original = record(run, tmp_path / "original", "--to", to, "--merge-into", "original")
    assert (default["merged_into"], original["merged_into"]) == ("trained", "original")
    assert "NF4" in default["base_weights"]
    # All that is left is the order of additions in float32.
    assert default["checked"]["mean_abs_logprob_difference"] < 1e-4
    assert default["checked"]["rounding_difference"] < 1e-4
    assert original["checked"]["rounding_difference"] > 1e-3
    assert original["checked"]["export_difference"] < 1e-4


def test_linear_layers_without_adapter_are_rounded_too_and_others_are_not(run: Path, tmp_path: Path) -> None:
    record(run, tmp_path / "out", "--to", "gguf")
    made = Gguf(tmp_path / "out" / "model.gguf")
    base = write_random(RandomModel(**SHAPE), tmp_path / "base.gguf")
    rounded = load_base_model(ModelSection(**MODEL), tmp_path, torch.device("cpu")).model.layers[0]
    assert np.array_equal(made.weight("blk.0.ffn_down.weight"), dequantize(rounded.mlp.down_proj).numpy())
    # The rows of the two heads of keys are in llama.cpp's order.
    keys = dequantize(rounded.self_attn.k_proj).numpy()[interleaved(32, 2)]
    assert np.array_equal(made.weight("blk.0.attn_k.weight"), keys)
    for name in ("token_embd.weight", "output_norm.weight", "blk.1.ffn_norm.weight"):
        assert np.array_equal(made.weight(name), base.weight(name))


def test_merged_weights_without_adapter_are_rounded_too(run: Path, tmp_path: Path) -> None:
    record(run, tmp_path / "out", "--to", "merged")
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "out").model.layers[1].mlp.up_proj.weight
    rounded = load_base_model(ModelSection(**MODEL), tmp_path, torch.device("cpu"))
    assert torch.equal(made, dequantize(rounded.model.layers[1].mlp.up_proj))


def test_weights_are_rounded_from_the_dtype_that_the_run_has(tmp_path: Path) -> None:
    section = ModelSection(**MODEL)
    found = load_base(section, tmp_path, "bfloat16").model.model.layers[0].mlp.up_proj.weight
    half = section.model_copy(update={"compute_dtype": "bfloat16"})
    due = load_base_model(half, tmp_path, torch.device("cpu")).model.layers[0].mlp.up_proj
    assert torch.equal(found, dequantize(due).float())
    assert not torch.equal(
        found, load_base(section, tmp_path, "float32").model.model.layers[0].mlp.up_proj.weight
    )


@pytest.mark.parametrize("to", ["adapter", "gguf-lora"])
def test_nothing_to_merge_into_is_a_message(run: Path, tmp_path: Path, to: str) -> None:
    result = pgrpo("export", run, "--to", to, "--merge-into", "trained", "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert "--merge-into" in result.stderr
    assert "nothing is merged" in result.stderr
    assert not (tmp_path / "out").exists()
