"""Checks of an update: how long it takes, and what it holds, by how much goes through the model at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pgrpo_cli.algo.advantages import compute_advantages
from pgrpo_cli.algo.types import Advantages
from pgrpo_cli.model.policy import Policy
from pgrpo_cli.model.rollout.sample import sample
from pgrpo_cli.model.rollout.sampling import SamplingSettings
from pgrpo_cli.model.rollouts import Rollouts
from pgrpo_cli.model.update.optimizer import build_optimizer
from pgrpo_cli.model.update.policy_update import policy_update, update_budget

from . import results
from .machine import matrix_rate
from .subject import GENERATIONS, Subject

_PROMPTS = 8
_BUDGETS_GPU, _BUDGETS_CPU = (2048, 8192), (512, 2048)
_REPEAT = 2
_PASSES = 4.0
"""Operations of a weight and a token: a product and a sum, forwards and, for the gradient, backwards. Frozen
weights have no gradient of their own; what gradient checkpointing computes again is not counted."""


def update(subject: Subject) -> tuple[results.Update, str | None]:
    """Of one step's rollouts, with each budget."""
    policy = subject.policy
    rollouts, advantages = step_of(subject, policy)
    rate = matrix_rate(subject, subject.dtype)
    budgets = _BUDGETS_GPU if subject.on_gpu else _BUDGETS_CPU
    with checkpointing(subject, policy):
        times = [_update_time(subject, policy, rollouts, advantages, budget, rate) for budget in budgets]
    found = results.Update(gradient_checkpointing=subject.shape.checkpointing, times=tuple(times))
    return found, None


def step_of(subject: Subject, policy: Policy) -> tuple[Rollouts, Advantages]:
    """Rollouts of a step, and advantages of made-up rewards."""
    settings = SamplingSettings(GENERATIONS, subject.shape.completion_tokens)
    rollouts = sample(policy, subject.prompts(_PROMPTS), settings, seed=0)
    rewards_N = [n % 7 / 7 for n in range(_PROMPTS * GENERATIONS)]
    groups_N = rollouts.preference_groups_N
    return rollouts, compute_advantages(rewards_N, groups_N, num_generations=GENERATIONS, estimator="dr_grpo")


@contextmanager
def checkpointing(subject: Subject, policy: Policy) -> Iterator[None]:
    """Within the block activations are computed a second time, where the shape's recipe says so."""
    if subject.shape.checkpointing:
        policy.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    try:
        yield
    finally:
        policy.model.gradient_checkpointing_disable()


def _update_time(
    subject: Subject,
    policy: Policy,
    rollouts: Rollouts,
    advantages: Advantages,
    tokens: int,
    rate: float,
) -> results.UpdateTime:
    recipe = subject.recipe(train={"tokens_per_micro_batch": tokens, "learning_rate": 1e-6})
    optimizer, budget = build_optimizer(policy, recipe.train), update_budget(recipe.train)
    if subject.on_gpu:
        torch.cuda.reset_peak_memory_stats(subject.device)
    seconds = []
    for _ in range(_REPEAT):
        started = subject.seconds()
        done = policy_update(policy, optimizer, rollouts, advantages, recipe, step=1, budget=budget)
        seconds.append(subject.seconds() - started)
    peak = torch.cuda.max_memory_allocated(subject.device) if subject.on_gpu else None
    operations = _operations(policy, done.tokens, sum(rollouts.lengths_N))
    return results.UpdateTime(
        budget=tokens,
        budget_left=budget.tokens,
        tokens=done.tokens,
        seconds=min(seconds),
        peak_bytes=peak,
        matrix_share=operations / min(seconds) / rate,
    )


def _operations(policy: Policy, tokens: int, completion_tokens: int) -> float:
    """Those of all tokens in the layers, and of completions in the output layer."""
    linears = [m for m in policy.decoder.modules() if isinstance(m, torch.nn.Linear)]
    in_layers = sum(m.in_features * m.out_features for m in linears)
    head = policy.model.get_base_model().get_output_embeddings()
    return _PASSES * (in_layers * tokens + head.in_features * head.out_features * completion_tokens)
