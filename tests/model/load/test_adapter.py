"""The adapter is the recipe's: which layers it is on, and what of a saved one is read."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pgrpo_cli.errors import CheckpointError, ModelError
from pgrpo_cli.model.load.adapter import adapter_state, attach_adapter
from pgrpo_cli.model.load.from_recipe import load_policy
from pgrpo_cli.model.load.random_model import random_model
from pgrpo_cli.model.update.packing import pack, whole_rows
from pgrpo_cli.model.update.policy_update import completion_logprobs
from pgrpo_cli.recipe.model import AdapterSection, RandomModel
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.state.adapter import Adapter, save_adapter
from tests.support.policies import made_up_rollouts, randomize_adapter
from tests.support.recipes import MINIMAL

CPU = torch.device("cpu")
LLAMA = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"


def recipe_with(**adapter):
    model = {"id": "random", "quantization": {"type": "none"}, "compute_dtype": "float32"}
    return Recipe.model_validate({**MINIMAL, "model": model, "adapter": adapter})


def policy_with(adapter=None, **section):
    return load_policy(recipe_with(**section), recipe_dir=Path(), device=CPU, adapter=adapter)


@pytest.mark.parametrize(
    "targets",
    ["all-linear", ["q_proj", "down_proj"], ["self_attn.v_proj"], ["model.layers.1.self_attn.q_proj"]],
)
def test_every_part_of_the_adapter_learns(targets):
    policy = policy_with(target_modules=targets)
    rollouts = made_up_rollouts([5, 3], [4, 2, 3, 4])
    packed = pack(whole_rows(rollouts), rollouts, pad_token_id=1)
    randomize_adapter(policy)
    completion_logprobs(policy, packed, temperature=1.0).sum().backward()
    for name, parameter in policy.trainable.items():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["q_proj", "v_porj"], "no linear layer that is trained is named 'v_porj'; did you mean 'v_proj'?"),
        (["q_proj", "lm_head"], "'lm_head' is the output layer, which is never trained"),
        (["lm_head"], "'lm_head' is the output layer"),
        (["embed_tokens"], "'embed_tokens' is the embedding, which is never trained"),
        (["model.embed_tokens"], "'model.embed_tokens' is the embedding"),
        (["self_attn"], "no linear layer that is trained is named 'self_attn'"),
        (["norm"], "no linear layer that is trained is named 'norm'"),
        (["("], "no linear layer that is trained is named '('"),
        (["(a+)+$"], "no linear layer that is trained is named"),
        (["proj"], "no linear layer that is trained is named 'proj'"),
    ],
)
def test_entries_that_would_not_learn_are_refused_with_what_there_is(targets, said):
    with pytest.raises(ModelError) as caught:
        attach_adapter(random_model(RandomModel()), AdapterSection(target_modules=targets))
    assert said in caught.value.message
    assert f"There are: {LLAMA}." in caught.value.remedy


def test_all_problems_are_named_at_once():
    with pytest.raises(ModelError, match=r"'one'.*; .*'two'"):
        attach_adapter(random_model(RandomModel()), AdapterSection(target_modules=("one", "two")))


def test_a_transposed_layer_counts_as_linear():
    from transformers import GPT2Config, GPT2LMHeadModel

    base = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=32))
    model = attach_adapter(base, AdapterSection(target_modules=("c_attn",)))
    assert any("c_attn.lora_A" in name for name, _ in model.named_parameters())


@pytest.fixture
def saved(tmp_path):
    """A trained adapter's folder, and its weights."""
    policy = policy_with(r=4)
    randomize_adapter(policy)
    save_adapter(Adapter(*adapter_state(policy.model)), tmp_path)
    return tmp_path, {name: weight.detach().clone() for name, weight in policy.trainable.items()}


def test_an_adapter_is_saved_as_peft_itself_saves_it(saved, tmp_path):
    """The bytes of the weights; of the configuration the values, as PEFT's order of sets is one of chance."""
    folder, _ = saved
    policy = policy_with(folder, r=4)
    policy.model.save_pretrained(tmp_path / "peft", save_embedding_layers=False)
    both = (folder, tmp_path / "peft")
    ours, theirs = ((at / "adapter_model.safetensors").read_bytes() for at in both)
    assert ours == theirs
    ours, theirs = (json.loads((at / "adapter_config.json").read_text()) for at in both)
    assert ours.pop("target_modules") == sorted(theirs.pop("target_modules"))
    assert list(ours.items()) == list(theirs.items())


def test_a_saved_adapter_comes_back(saved):
    folder, weights = saved
    policy = policy_with(folder, r=4)
    assert policy.trainable.keys() == weights.keys()
    assert all(torch.equal(weight, weights[name]) for name, weight in policy.trainable.items())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"r": 8}, "r is 8, and the recipe makes 4"),
        ({"lora_alpha": 64}, "lora_alpha is 64, and the recipe makes 32"),
        ({"use_dora": True}, "use_dora is true"),
        ({"peft_type": "IA3"}, 'peft_type is "IA3", and the recipe makes "LORA"'),
        ({"rank_pattern": {"(a+)+$": 8}}, "rank_pattern is"),
        ({"alpha_pattern": {"(a+)+$": 8}}, "alpha_pattern is"),
        ({"megatron_config": {}, "megatron_core": "evil"}, "megatron_config is {}"),
        ({"megatron_core": "evil"}, 'megatron_core is "evil"'),
        ({"auto_mapping": {"parent_library": "evil", "base_model_class": "X"}}, "auto_mapping is"),
        ({"target_modules": "(a+)+$"}, "target_modules is"),
        ({"target_modules": ["q_proj"]}, "target_modules is"),
        ({"modules_to_save": ["lm_head"]}, 'modules_to_save is ["lm_head"]'),
        ({"bias": "all"}, 'bias is "all"'),
    ],
)
def test_a_configuration_that_is_not_the_recipes_is_refused_by_the_field(saved, change, said, monkeypatch):
    folder, _ = saved
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **change}))
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(folder)
    started = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        policy_with(folder, r=4)
    assert f"adapter_config.json: {said}" in caught.value.message
    assert time.monotonic() - started < 10
    assert not (folder / "ran").exists()


def test_fields_that_are_not_about_the_adapter_may_differ(saved):
    folder, _ = saved
    config = json.loads((folder / "adapter_config.json").read_text())
    del config["use_qalora"]
    changes = {"peft_version": "0.1", "base_model_name_or_path": "/other/disk", "inference_mode": False}
    (folder / "adapter_config.json").write_text(json.dumps({**config, **changes, "of_the_future": 1}))
    policy_with(folder, r=4)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000])
def test_a_configuration_that_is_none(saved, text):
    folder, _ = saved
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"adapter_config\.json"):
        policy_with(folder, r=4)


def test_weights_are_read_from_safetensors_alone(saved):
    folder, _ = saved
    weights = folder / "adapter_model.safetensors"
    torch.save(load_file(weights), folder / "adapter_model.bin")
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors: No such file"):
        policy_with(folder, r=4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weights: weights.popitem(), "it lacks base_model"),
        (lambda weights: weights.update(more=torch.zeros(1)), "it has more, which"),
        (
            lambda weights: weights.update({next(iter(weights)): torch.zeros(2, 3)}),
            "is 2x3, not",
        ),
    ],
)
def test_weights_that_are_not_those_of_the_adapter(saved, change, said):
    folder, _ = saved
    weights = load_file(folder / "adapter_model.safetensors")
    change(weights)
    save_file(weights, folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        policy_with(folder, r=4)
    assert said in caught.value.message


def test_weights_that_were_cut(saved):
    folder, _ = saved
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="does not load"):
        policy_with(folder, r=4)
