"""The layer in one operation against PEFT's own forward pass and torch's own derivatives."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from pgrpo_cli.model.load.adapted_linear import lora_layers, use_adapted_linears
from tests.support.policies import GEMMA3N, SHAPE, randomize_adapter, tiny_policy

IDS = torch.tensor([[3, 7, 5, 11, 2, 9]])


def _outcome(policy):
    """Logits, and the gradient of a weighted sum of them by every adapter parameter."""
    policy.model.zero_grad()
    logits = policy.model(input_ids=IDS).logits
    weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
    (logits * weights).sum().backward()
    return logits.detach(), {
        name: p.grad.clone() for name, p in policy.trainable.items() if p.grad is not None
    }


def _with_peft(policy):
    for layer in lora_layers(policy.model):
        del layer.forward
    return policy


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3_text", "phi3"])
def test_logits_and_gradients_equal_those_of_peft(architecture):
    logits, gradients = _outcome(tiny_policy(architecture))
    expected_logits, expected = _outcome(_with_peft(tiny_policy(architecture)))
    torch.testing.assert_close(logits, expected_logits, atol=1e-12, rtol=0)
    assert all(gradient.abs().max() > 0 for gradient in expected.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-11, rtol=1e-10, msg=name)


@pytest.mark.parametrize(
    ("architecture", "changes"), [("falcon", {"head_dim": None}), ("gemma3n_text", GEMMA3N)]
)
def test_a_model_may_change_the_result_in_place(architecture, changes):
    """Falcon adds the residual stream to it, Gemma 3n scales it."""
    logits, gradients = _outcome(tiny_policy(architecture, torch.float32, **changes))
    expected_logits, expected = _outcome(_with_peft(tiny_policy(architecture, torch.float32, **changes)))
    torch.testing.assert_close(logits, expected_logits)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-4, rtol=1e-3, msg=name)


def test_gradients_pass_through_a_layer_to_its_input():
    policy = tiny_policy()
    layer = lora_layers(policy.model)[0]
    torch.manual_seed(0)
    x = torch.randn(2, 5, layer.in_features, dtype=torch.float64, requires_grad=True)
    parameters = (x, layer.lora_A["default"].weight, layer.lora_B["default"].weight)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), parameters)


def test_the_adapter_can_still_be_switched_off():
    policy, peft = tiny_policy(), _with_peft(tiny_policy())
    with torch.no_grad(), policy.base(), peft.base():
        off = policy.model(input_ids=IDS).logits
        assert torch.equal(off, peft.model(input_ids=IDS).logits)
    with torch.no_grad():
        assert not torch.allclose(off, policy.model(input_ids=IDS).logits, atol=1e-3)


def test_an_adapter_with_dropout_keeps_pefts_forward_pass():
    base = LlamaForCausalLM(LlamaConfig(**SHAPE))
    model = get_peft_model(
        base, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", lora_dropout=0.5)
    )
    use_adapted_linears(model)
    assert not any("forward" in vars(layer) for layer in lora_layers(model))
    policy = tiny_policy()
    assert all("forward" in vars(layer) for layer in lora_layers(policy.model))


def test_in_bfloat16_the_gradient_is_that_of_float32_within_its_rounding():
    precise, rounded = tiny_policy(dtype=torch.float32), tiny_policy(dtype=torch.bfloat16)
    for policy in (precise, rounded):
        # PEFT trains float32 adapters over a model in less.
        for parameter in policy.trainable.values():
            parameter.data = parameter.data.float()
        randomize_adapter(policy)
    for ours, theirs in zip(precise.model.parameters(), rounded.model.parameters(), strict=True):
        ours.data = theirs.data.float()
    _, expected = _outcome(precise)
    _, found = _outcome(rounded)
    assert {g.dtype for g in found.values()} == {torch.float32}
    difference = torch.cat([(found[n] - expected[n]).flatten() for n in found]).norm()
    # bfloat16 keeps 8 bits: a relative error of 2^-9 a rounding, some hundred roundings in a row.
    assert difference / torch.cat([g.flatten() for g in expected.values()]).norm() < 0.03


def test_it_keeps_less_for_the_backward_pass_than_peft():
    def kept_bytes(policy):
        storages = {}

        def pack(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            policy.model(input_ids=IDS.repeat(1, 8))
        return sum(storages.values())

    ours, theirs = tiny_policy(dtype=torch.bfloat16), _with_peft(tiny_policy(dtype=torch.bfloat16))
    for policy in (ours, theirs):
        for parameter in policy.trainable.values():
            parameter.data = parameter.data.float()
    assert kept_bytes(ours) < 0.9 * kept_bytes(theirs)
