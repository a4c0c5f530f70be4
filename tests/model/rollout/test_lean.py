"""The adapter as rollouts on CUDA compute it, against PEFT's own forward pass."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from pgrpo_cli.model.rollout import lean
from pgrpo_cli.model.rollout.buffers import Buffers, StaticBuffers
from pgrpo_cli.model.rollout.lean import lean_adapter, lean_norms
from tests.support.policies import ARCHITECTURES, randomize_adapter, tiny_policy

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])


@torch.no_grad()
def _logits(policy):
    policy.model.eval()
    return policy.model(input_ids=IDS).logits


def _lean_layers(policy):
    forwards = {name: vars(module).get("forward") for name, module in policy.model.named_modules()}
    return [name for name, f in forwards.items() if f and f.func.__module__ == lean.__name__]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_lean_adapter_computes_the_same(architecture):
    policy = tiny_policy(architecture, torch.float32)
    expected, before = _logits(policy), _lean_layers(policy)
    with lean_adapter(policy.model, torch.float32, Buffers()):
        # Seven linear layers in each of two blocks; Phi-3 fuses them into four.
        assert len(_lean_layers(policy)) == (8 if architecture == "phi3" else 14)
        torch.testing.assert_close(_logits(policy), expected, atol=1e-5, rtol=1e-5)
    assert _lean_layers(policy) == before
    assert torch.equal(_logits(policy), expected)
    with policy.base():
        assert (_logits(policy) - expected).abs().max() > 0.01


def test_rounding_the_adapter_costs_no_more_than_the_compute_dtype_does():
    policy = tiny_policy("llama", torch.float32)
    exact = _logits(policy)
    policy.model.get_base_model().to(torch.bfloat16)
    for parameter in policy.trainable.values():
        parameter.data = parameter.data.float()
    in_training = (_logits(policy) - exact).abs().mean()
    buffers = StaticBuffers()
    with lean_adapter(policy.model, torch.bfloat16, buffers):
        lean = (_logits(policy) - exact).abs().mean()
    assert 0 < lean < 1.5 * in_training


def test_copies_follow_the_adapter_and_stay_where_they_are():
    policy = tiny_policy("llama", torch.bfloat16)
    for parameter in policy.trainable.values():
        parameter.data = parameter.data.float()
    buffers, found = StaticBuffers(), []
    for scale in (0.3, 0.9):
        randomize_adapter(policy, scale)
        expected = _logits(policy)
        with lean_adapter(policy.model, torch.bfloat16, buffers):
            found.append((buffers.addresses(), _logits(policy)))
        torch.testing.assert_close(found[-1][1], expected, atol=0.05, rtol=0)
    assert found[0][0] == found[1][0] != ()
    assert (found[0][1] - found[1][1]).abs().max() > 0.2


def test_what_is_off_or_more_than_plain_is_left_alone():
    policy = tiny_policy("llama", torch.float32)
    with policy.base():
        base = _logits(policy)
        with lean_adapter(policy.model, torch.float32, Buffers()):
            assert _lean_layers(policy) == []
            assert torch.equal(_logits(policy), base)
    dora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", use_dora=True)
    model = get_peft_model(policy.model.unload(), dora)
    with lean_adapter(model, torch.float32, Buffers()):
        assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_lean_norms_compute_the_same_where_the_weight_is_the_scale(architecture, dtype):
    policy = tiny_policy(architecture, dtype)
    for module in policy.model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            torch.nn.init.normal_(module.weight, mean=0.9, std=0.2)
    expected = _logits(policy)
    with lean_norms(policy.model, dtype):
        # Two norms a block and one at the end; Qwen3 has two more a block for queries and keys.
        assert len(_lean_layers(policy)) == {"llama": 5, "phi3": 5, "qwen3": 9}.get(architecture, 0)
        tolerance = 1e-5 if dtype == torch.float32 else 0.05
        torch.testing.assert_close(_logits(policy), expected, atol=tolerance, rtol=tolerance)
    assert _lean_layers(policy) == []


def test_norms_in_another_dtype_are_left_alone():
    policy = tiny_policy("llama", torch.float32)
    with lean_norms(policy.model, torch.bfloat16):
        assert _lean_layers(policy) == []
