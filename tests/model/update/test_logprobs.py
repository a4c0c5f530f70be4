"""Packed rows against one padded row a completion: the same log-probabilities and the same gradients."""

from dataclasses import replace

import pytest
import torch

from pgrpo_cli.model.update.logprobs import head_logprobs, packed_logprobs, scatter
from pgrpo_cli.model.update.packing import micro_batches, pack, whole_rows
from pgrpo_cli.model.update.padded import padded_logprobs
from tests.support.policies import ARCHITECTURES, HYBRID, made_up_rollouts, tiny_policy

PROMPT_LENGTHS = (11, 4, 9)
COMPLETION_LENGTHS = (3, 7, 5, 1, 6, 2)


def _with_gradients(path, policy, rollouts, rows, temperature=0.7):
    """Log-probabilities [N, T] and the gradient of a weighted sum of them by each adapter parameter."""
    policy.model.zero_grad()
    packed = pack(rows, rollouts, pad_token_id=1)
    logprobs_N_T = scatter(path(policy, packed, temperature=temperature), packed)
    weights_N_T = torch.linspace(-1, 1, logprobs_N_T.numel(), dtype=logprobs_N_T.dtype).view_as(logprobs_N_T)
    (logprobs_N_T * weights_N_T).sum().backward()
    order = packed.completions_N.argsort()
    return logprobs_N_T[order].detach(), {n: p.grad.clone() for n, p in policy.trainable.items()}


def _reference(policy, rollouts, temperature):
    """Each completion by itself through the whole model: no packing, no padding, no chunks."""
    rows = []
    for n, length in enumerate(rollouts.lengths_N):
        prompt = list(rollouts.prompts[n // rollouts.num_generations].input_ids)
        completion = rollouts.completion_ids_N_T[n, :length].tolist()
        logits = policy.model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        logprobs = torch.log_softmax(logits / temperature, dim=-1)
        rows.append(logprobs[torch.arange(length), completion])
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_rows_are_exact(architecture):
    policy = tiny_policy(architecture)
    rollouts = made_up_rollouts(PROMPT_LENGTHS, COMPLETION_LENGTHS)
    rows = whole_rows(rollouts)
    packed, packed_gradients = _with_gradients(packed_logprobs, policy, rollouts, rows)
    padded, padded_gradients = _with_gradients(padded_logprobs, policy, rollouts, rows)
    with torch.no_grad():
        reference = _reference(policy, rollouts, 0.7)
    # transformers' eager attention (Gemma 2) takes its softmax in float32.
    tolerance = 1e-6 if policy.config._attn_implementation == "eager" else 1e-10
    torch.testing.assert_close(packed, reference, atol=tolerance, rtol=0)
    torch.testing.assert_close(padded, reference, atol=tolerance, rtol=0)
    assert any(gradient.abs().max() > 1e-3 for gradient in packed_gradients.values())
    for name, gradient in packed_gradients.items():
        torch.testing.assert_close(gradient, padded_gradients[name], atol=tolerance, rtol=0, msg=name)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_rows_in_float32(architecture):
    policy = tiny_policy(architecture, torch.float32)
    rollouts = made_up_rollouts(PROMPT_LENGTHS, COMPLETION_LENGTHS)
    rows = whole_rows(rollouts)
    _, packed = _with_gradients(packed_logprobs, policy, rollouts, rows)
    _, padded = _with_gradients(padded_logprobs, policy, rollouts, rows)
    difference = torch.cat([(packed[n] - padded[n]).flatten() for n in packed]).norm()
    assert difference / torch.cat([g.flatten() for g in padded.values()]).norm() < 1e-4


def test_the_plain_path_is_exact_for_recurrent_layers():
    policy = tiny_policy("qwen3_next", torch.float32, **HYBRID)
    rollouts = made_up_rollouts(PROMPT_LENGTHS, COMPLETION_LENGTHS)
    packed = pack(whole_rows(rollouts), rollouts, pad_token_id=1)
    with torch.no_grad():
        padded = scatter(padded_logprobs(policy, packed, temperature=1.0), packed)
        torch.testing.assert_close(padded, _reference(policy, rollouts, 1.0), atol=1e-4, rtol=0)


@pytest.mark.parametrize("budget", [1, 18, 30, 10_000])
def test_gradients_do_not_depend_on_the_cut_into_micro_batches(budget):
    policy = tiny_policy()
    rollouts = made_up_rollouts(PROMPT_LENGTHS, COMPLETION_LENGTHS)
    weights_N = torch.linspace(-1, 1, len(COMPLETION_LENGTHS), dtype=torch.float64)

    def gradient(groups):
        policy.model.zero_grad()
        for rows in groups:
            packed = pack(rows, rollouts, pad_token_id=1)
            logprobs_N_T = scatter(packed_logprobs(policy, packed, temperature=1.0), packed)
            (logprobs_N_T.sum(1) * weights_N[packed.completions_N]).sum().backward()
        return torch.cat([p.grad.flatten() for p in policy.trainable.values()])

    whole = gradient([whole_rows(rollouts)])
    torch.testing.assert_close(gradient(micro_batches(rollouts, budget)), whole, atol=1e-10, rtol=0)


@pytest.mark.parametrize("cap", [None, 5.0])
@pytest.mark.parametrize("chunk", [1, 4, 128, 512])
def test_output_layer_in_chunks_equals_autograd(cap, chunk):
    policy = replace(tiny_policy("gemma2", final_logit_softcapping=cap), head_chunk=chunk)
    torch.manual_seed(3)
    hidden = torch.randn(10, 32, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(policy.config.vocab_size, (10,))
    weights = torch.randn(10, dtype=torch.float64)

    logprobs = head_logprobs(policy, hidden, targets, temperature=0.5)
    (ours,) = torch.autograd.grad((logprobs * weights).sum(), hidden)
    expected = torch.log_softmax(policy.logits(hidden) / 0.5, dim=-1)[torch.arange(10), targets]
    (theirs,) = torch.autograd.grad((expected * weights).sum(), hidden)
    torch.testing.assert_close(logprobs, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


def test_gradient_checkpointing_changes_nothing():
    policy = tiny_policy()
    rollouts = made_up_rollouts(PROMPT_LENGTHS, COMPLETION_LENGTHS)
    policy.model.train()
    _, plain = _with_gradients(packed_logprobs, policy, rollouts, whole_rows(rollouts))
    policy.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    _, checkpointed = _with_gradients(packed_logprobs, policy, rollouts, whole_rows(rollouts))
    for name, gradient in plain.items():
        torch.testing.assert_close(gradient, checkpointed[name], atol=1e-12, rtol=0)
