"""Models that multiply their logits by a constant compute here what they compute by themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pgrpo_cli.errors import ModelError
from pgrpo_cli.model.load.logit_scale import measured_logit_scale
from pgrpo_cli.model.policy import Policy
from pgrpo_cli.model.rollout.sample import sample
from pgrpo_cli.model.rollout.sampling import SamplingSettings
from pgrpo_cli.model.update.packing import pack, whole_rows
from pgrpo_cli.model.update.padded import padded_logprobs
from tests.support.policies import ARCHITECTURES, SLIDING, make_prompts, tiny_policy

SCALED: dict[str, tuple[dict[str, Any], float]] = {
    "granite": ({"logits_scaling": 8.0}, 0.125),
    "cohere2": ({"logit_scale": 0.0625, **SLIDING}, 0.0625),
}


def steep(architecture: str, dtype: torch.dtype, **changes: Any) -> Policy:
    """With an output layer whose logits differ by much, so that a factor matters."""
    policy = tiny_policy(architecture, dtype, **changes)
    policy.model.get_base_model().get_output_embeddings().weight.data.normal_(std=1.0)
    return policy


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", SCALED)
def test_the_factor_is_found(architecture: str, dtype: torch.dtype) -> None:
    changes, scale = SCALED[architecture]
    assert measured_logit_scale(steep(architecture, dtype, **changes)) == pytest.approx(scale, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_others_have_none(architecture: str, dtype: torch.dtype) -> None:
    assert measured_logit_scale(steep(architecture, dtype)) == 1.0


@pytest.mark.parametrize("architecture", SCALED)
def test_sampling_and_training_have_the_models_own_log_probabilities(architecture: str) -> None:
    policy = steep(architecture, torch.float32, **SCALED[architecture][0])
    policy = replace(policy, logit_scale=measured_logit_scale(policy))
    policy.model.eval()
    rollouts = sample(policy, make_prompts((9, 5)), SamplingSettings(2, 4, temperature=0.7), seed=1)
    packed = pack(whole_rows(rollouts), rollouts, pad_token_id=1)
    with torch.no_grad():
        trained_M = padded_logprobs(policy, packed, temperature=0.7)
    own_M = []
    for n, row_T in zip(packed.completions_N[packed.row_M], packed.column_M, strict=True):
        prompt = rollouts.prompts[int(n) // 2].input_ids
        ids = torch.tensor([[*prompt, *rollouts.completion_ids_N_T[n, : int(row_T) + 1].tolist()]])
        with torch.no_grad():
            logits = policy.model(input_ids=ids).logits[0, -2] / 0.7
        own_M.append(torch.log_softmax(logits, dim=-1)[ids[0, -1]])
    sampled_M = rollouts.sampling_logprobs_N_T[packed.completions_N[packed.row_M], packed.column_M]
    torch.testing.assert_close(trained_M, torch.stack(own_M), atol=1e-4, rtol=0)
    torch.testing.assert_close(sampled_M, torch.stack(own_M), atol=1e-4, rtol=0)


def test_the_gradient_is_the_models_own() -> None:
    """Of one log-probability with respect to the adapter, in float64."""
    policy = steep("granite", torch.float64, logits_scaling=8.0)
    policy = replace(policy, logit_scale=measured_logit_scale(policy))
    prompt, ids = make_prompts((5,))[0], torch.tensor([[*make_prompts((5,))[0].input_ids, 7]])
    rollouts = sample(policy, [prompt], SamplingSettings(1, 1), seed=1)
    rollouts = replace(rollouts, completion_ids_N_T=torch.tensor([[7]]))
    packed = pack(whole_rows(rollouts), rollouts, pad_token_id=1)
    gradients = []
    for value in (
        padded_logprobs(policy, packed, temperature=1.0)[0],
        torch.log_softmax(policy.model(input_ids=ids).logits[0, -2], dim=-1)[7],
    ):
        gradients.append(torch.autograd.grad(value, list(policy.trainable.values())))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_logits_that_are_something_else_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy("llama", torch.float32)
    base = policy.model.get_base_model()
    whole = type(base).forward

    def cubed(model: Any, *arguments: Any, **options: Any) -> Any:
        output = whole(model, *arguments, **options)
        output.logits = output.logits**3
        return output

    monkeypatch.setattr(type(base), "forward", cubed)
    with pytest.raises(ModelError, match="the logits of LlamaForCausalLM are not its output layer's times"):
        measured_logit_scale(policy)


def test_a_model_that_fails_with_its_adapter_is_refused() -> None:
    policy = tiny_policy()

    def unpacked(*arguments: object, **options: object) -> None:
        raise ValueError("too many values to unpack (expected 2)")

    policy.decoder.layers[0].forward = unpacked
    with pytest.raises(ModelError, match=r"LlamaForCausalLM with its adapter fails .*ValueError: too many"):
        measured_logit_scale(policy)
