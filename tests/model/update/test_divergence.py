"""Divergence and perplexity against the model's plain forward pass."""

from __future__ import annotations

import math

import pytest
import torch

from pgrpo_cli.model.policy import Policy
from pgrpo_cli.model.rollout.sample import sample
from pgrpo_cli.model.rollout.sampling import SamplingSettings
from pgrpo_cli.model.rollouts import Rollouts
from pgrpo_cli.model.update import divergence as module
from pgrpo_cli.model.update.divergence import completion_kl, divergence_budget, neutral_text, perplexity
from tests.support.policies import make_prompts, randomize_adapter, tiny_policy
from tests.support.small_device import forward_limit

SETTINGS = SamplingSettings(num_generations=3, max_completion_tokens=6, temperature=0.7)


@pytest.fixture
def policy() -> Policy:
    made = tiny_policy()
    randomize_adapter(made, scale=2.0)
    return made


def sampled(policy: Policy) -> Rollouts:
    return sample(policy, make_prompts((9, 5, 7)), SETTINGS, seed=4)


def plain_logprobs(policy: Policy, rollouts: Rollouts, n: int) -> torch.Tensor:
    """log-probabilities of the tokens of completion n by one unpadded forward pass."""
    prompt = list(rollouts.prompts[n // rollouts.num_generations].input_ids)
    length = rollouts.lengths_N[n]
    ids = torch.tensor([prompt + rollouts.completion_ids_N_T[n, :length].tolist()])
    with torch.no_grad():
        logits = policy.model(input_ids=ids).logits[0].double() / SETTINGS.temperature
    targets = ids[0, len(prompt) :]
    return logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def test_kl_by_the_plain_forward_pass(policy: Policy) -> None:
    rollouts = sampled(policy)
    found = completion_kl(policy, rollouts, temperature=0.7, budget=divergence_budget(64))
    for n, kl in enumerate(found):
        own = plain_logprobs(policy, rollouts, n)
        with policy.base():
            base = plain_logprobs(policy, rollouts, n)
        d = base - own
        assert kl == pytest.approx((d.exp() - d - 1).mean().item(), rel=1e-4, abs=1e-6)
    assert min(found) > 0


def test_an_adapter_of_zeros_has_no_kl(policy: Policy) -> None:
    randomize_adapter(policy, scale=0.0)
    rollouts = sampled(policy)
    assert completion_kl(policy, rollouts, temperature=0.7, budget=divergence_budget(64)) == [0.0] * 9


def test_out_of_memory_changes_nothing(policy: Policy) -> None:
    rollouts = sampled(policy)
    whole = completion_kl(policy, rollouts, temperature=0.7, budget=divergence_budget(4096))
    budget = divergence_budget(4096)
    with forward_limit(policy, 30):
        pieces = completion_kl(policy, rollouts, temperature=0.7, budget=budget)
    assert budget.tokens < 4096
    assert pieces == pytest.approx(whole, rel=1e-4, abs=1e-6)


def test_nothing_is_left_behind(policy: Policy) -> None:
    rollouts = sampled(policy)
    policy.model.train()
    before = torch.random.get_rng_state()
    completion_kl(policy, rollouts, temperature=0.7, budget=divergence_budget(64))
    perplexity(policy, "some words")
    assert policy.model.training and torch.equal(torch.random.get_rng_state(), before)
    assert all(p.grad is None for p in policy.trainable.values())


def test_perplexity_by_the_plain_forward_pass(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WINDOW", 8)
    ids = policy.tokenizer("twelve tokens", add_special_tokens=False)["input_ids"]
    assert len(ids) == 13
    losses: list[float] = []
    for window in (ids[:8], ids[8:]):
        with torch.no_grad():
            logprobs = policy.model(input_ids=torch.tensor([window])).logits[0].double().log_softmax(-1)
        losses += [-logprobs[i, token].item() for i, token in enumerate(window[1:])]
    # 7 tokens of the first window and 4 of the second have a context.
    assert len(losses) == 11
    assert perplexity(policy, "twelve tokens") == pytest.approx(math.exp(sum(losses) / 11), rel=1e-5)


def test_a_text_without_a_context_has_no_perplexity(policy: Policy) -> None:
    assert math.isnan(perplexity(policy, "a")) and math.isnan(perplexity(policy, ""))


def test_the_neutral_text_ships() -> None:
    text = neutral_text()
    assert 600 <= len(text.split()) <= 700 and text.isascii()
