"""The finished adapter in other hands: plain PEFT and transformers, nothing of pgrpo."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from pgrpo_cli.data.prepared import load_prepared
from pgrpo_cli.model.load import load_policy
from pgrpo_cli.model.random_model import random_model
from pgrpo_cli.model.rollout import sample
from pgrpo_cli.model.sampling import SamplingSettings
from pgrpo_cli.state.run import RunDirectory
from tests.cli.test_train import home, train  # noqa: F401

BARE = """
import json, sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

base, adapter, prompts = sys.argv[1:]
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
for ids in json.loads(prompts):
    ids = torch.tensor([ids])
    mask = torch.ones_like(ids)
    output = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=12, do_sample=False)
    print(json.dumps(output[0, ids.shape[1]:].tolist()))
assert not any(name.startswith("pgrpo") for name in sys.modules)
"""


@pytest.mark.parametrize("place", ["adapter", "checkpoints/step-000004"])
def test_the_adapter_loads_in_a_bare_peft_script(home, place):  # noqa: F811
    train("--set", "train.learning_rate=0.3")
    run = RunDirectory(home / "runs/tiny")
    recipe = run.recipe()
    base = random_model(recipe.model.random)
    base.save_pretrained(home / "base")
    policy = load_policy(recipe, recipe_dir=home, device=torch.device("cpu"), adapter=run.path / place)
    prompts = load_prepared(run.path, "eval")
    settings = SamplingSettings(num_generations=1, max_completion_tokens=12, greedy=True)
    rollouts = sample(policy, prompts, settings, seed=0)
    ours = [rollouts.completion_ids_N_T[n, :length].tolist() for n, length in enumerate(rollouts.lengths_N)]
    with policy.base():
        untuned = sample(policy, prompts, settings, seed=0)
    assert untuned.texts_N != rollouts.texts_N, (
        "the adapter changes nothing, so this test would prove nothing"
    )

    ids = str([list(prompt.input_ids) for prompt in prompts])
    script = [sys.executable, "-W", "ignore", "-c", BARE, str(home / "base"), str(run.path / place), ids]
    bare = subprocess.run(script, capture_output=True, text=True, cwd=home)
    assert bare.returncode == 0, bare.stderr
    assert [json.loads(line) for line in bare.stdout.splitlines()] == ours
