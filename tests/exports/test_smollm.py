"""SmolLM2, trained for two steps: llama.cpp answers as two preference groups from what was exported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.training import pgrpo

pytestmark = pytest.mark.slow
QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
SMALL = (
    *("--set", "train.steps=2", "--set", "train.warmup_steps=0", "--set", "train.prompts_per_step=2"),
    *("--set", "rollout.num_generations=2", "--set", "rollout.max_completion_tokens=12"),
    *("--set", "data.source.prompts=28", "--set", "data.source.eval_prompts_per_group=1"),
)


def test_a_gguf_with_presets(tmp_path: Path) -> None:
    import xllamacpp

    run, out = tmp_path / "run", tmp_path / "out"
    assert pgrpo("train", QUICKSTART, "--run-dir", run, "-q", *SMALL).exit_code == 0
    result = pgrpo("export", run, "--to", "ollama", "--output", out, "--json")
    assert result.exit_code == 0, result.stderr
    checked = json.loads((out / "export.json").read_text())["checked"]
    assert checked["by"] == "llama.cpp (xllamacpp)"
    assert checked["export_difference"] < 0.1
    # The export has the NF4 rounding that the run trained on; the original weights would be 0.4 away.
    assert checked["mean_abs_logprob_difference"] < 0.15
    presets = json.loads((out / "presets.json").read_text())
    assert len(presets) == 7
    assert len(list(out.glob("Modelfile.*"))) == 7
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = str(out / "model.gguf"), 1024, 1
    params.warmup, params.verbosity = False, -1
    server = xllamacpp.Server(params)
    answers = []
    for group in list(presets)[:2]:
        messages = [*presets[group]["messages"], {"role": "user", "content": "What should I wear today?"}]
        asked = {"messages": messages, "max_tokens": 12, "temperature": 0.0}
        answers.append(server.handle_chat_completions(asked)["choices"][0]["message"]["content"])
    assert all(answers)
    assert answers[0] != answers[1]
