"""Memory is made to run out: in a rollout, in the capture of a graph, in an update. The run must continue in
smaller pieces, with the same result but for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeVar

import torch

from pgrpo_cli.errors import PgrpoError
from pgrpo_cli.model.oom import TokenBudget
from pgrpo_cli.model.policy import Policy
from pgrpo_cli.model.rollout.batching import rollout_budget
from pgrpo_cli.model.rollout.sample import sample
from pgrpo_cli.model.rollout.sampling import SamplingSettings
from pgrpo_cli.model.rollouts import Rollouts
from pgrpo_cli.model.update.optimizer import build_optimizer
from pgrpo_cli.model.update.policy_update import policy_update, update_budget
from pgrpo_cli.pretrained.memory import is_out_of_memory, release_memory

from . import results
from .subject import GENERATIONS, Subject, plainly
from .training import checkpointing, step_of

Place = Literal["rollout", "graph capture", "update"]
Result = TypeVar("Result")

_PROMPTS = 8
_SHARES = (0.8, 0.65, 0.5, 0.4, 0.3)
"""Of what a piece of work takes with memory enough, what it gets, one after the other until it runs out."""
_BETWEEN = 0.5
"""Of what graphs take in addition, what a capture gets."""
_TOLERANCE = 0.05
"""Of a difference that is to be rounding alone: of log-probabilities in the mean, of gradients a share."""


class Limiter(Protocol):
    """What lets memory run out."""

    def measured(self, work: Callable[[], Result]) -> tuple[Result, int]:
        """What the work returns, and how much it takes beyond what was there before, with memory enough."""

    def limited(self, amount: int) -> AbstractContextManager[None]:
        """Within the block there is so much beyond what is there when it begins."""

    def times(self) -> int:
        """How often memory has run out so far."""


@dataclass(frozen=True)
class DeviceMemory:
    """That of a CUDA device, as torch's allocator hands it out."""

    device: torch.device

    def measured(self, work: Callable[[], Result]) -> tuple[Result, int]:
        release_memory()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_reserved(self.device)
        result = work()
        return result, torch.cuda.max_memory_reserved(self.device) - before

    @contextmanager
    def limited(self, amount: int) -> Iterator[None]:
        release_memory()
        allowed = torch.cuda.memory_reserved(self.device) + amount
        total = torch.cuda.get_device_properties(self.device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / total), self.device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, self.device)

    def times(self) -> int:
        return int(torch.cuda.memory_stats(self.device)["num_ooms"])


def out_of_memory(subject: Subject) -> tuple[results.OutOfMemory, str | None]:
    """Under torch's limit on the memory of a process."""
    subject.need_gpu()
    return drilled(subject, subject.policy, DeviceMemory(subject.device))


def drilled(subject: Subject, policy: Policy, limiter: Limiter) -> tuple[results.OutOfMemory, str | None]:
    """One drill after the other; what one raises is a problem of its own."""
    drills: dict[Place, Callable[[Subject, Policy, Limiter], results.Drill]] = {
        "rollout": in_rollout,
        "graph capture": in_capture,
        "update": in_update,
    }
    if not policy.paths.graphs:
        del drills["graph capture"]
    done, problems = [], []
    for place, drill in drills.items():
        policy.workspace.release()
        try:
            done.append(drill(subject, policy, limiter))
            problem = problem_of(done[-1])
        except (PgrpoError, RuntimeError) as error:
            if not isinstance(error, PgrpoError) and not is_out_of_memory(error):
                raise
            problem = str(error).partition("\n")[0]
        if problem:
            problems.append(f"{place}: {problem}")
        release_memory()
    return results.OutOfMemory(drills=tuple(done)), "; ".join(problems) or None


def problem_of(drill: results.Drill) -> str | None:
    """What is wrong with how a run went on. Memory that could not be made to run out proves nothing."""
    if drill.difference is None or not math.isfinite(drill.difference):
        return "the result is another one"
    if drill.difference > _TOLERANCE:
        return f"the result differs by {drill.difference:.2g}"
    if drill.ran_out and drill.budget is not None and drill.budget_left == drill.budget:
        return "memory ran out, and the budget was not lowered"
    return None


def in_rollout(subject: Subject, policy: Policy, limiter: Limiter) -> results.Drill:
    """Without graphs and copies of weights, so that nothing but the batch can be made smaller."""
    policy = replace(policy, paths=replace(policy.paths, graphs=False, copy_from_rows=None))
    settings = _settings(subject)
    whole, taken = limiter.measured(lambda: sample(policy, subject.prompts(_PROMPTS), settings, seed=0))
    budget, again, ran_out = rollout_budget(settings), whole, False
    for share in _SHARES:
        policy.workspace.release()
        before = limiter.times()
        with limiter.limited(round(share * taken)):
            again = sample(policy, subject.prompts(_PROMPTS), settings, seed=0, budget=budget)
        ran_out = limiter.times() > before
        if ran_out:
            break
    return results.Drill(
        where="rollout",
        ran_out=ran_out,
        budget=settings.tokens_per_batch,
        budget_left=budget.tokens,
        graphs=None,
        difference=rollout_difference(whole, again),
    )


def in_capture(subject: Subject, policy: Policy, limiter: Limiter) -> results.Drill:
    """With memory for the rollout, and not for all that its graphs take."""
    settings, prompts = _settings(subject), subject.prompts(_PROMPTS)
    whole, plain = limiter.measured(lambda: sample(plainly(policy), prompts, settings, seed=0))
    policy.workspace.release()
    _, taken = limiter.measured(lambda: sample(policy, prompts, settings, seed=0))
    policy.workspace.release()
    budget, before = rollout_budget(settings), limiter.times()
    with limiter.limited(plain + round(_BETWEEN * max(0, taken - plain))):
        again = sample(policy, prompts, settings, seed=0, budget=budget)
    return results.Drill(
        where="graph capture",
        ran_out=limiter.times() > before,
        budget=None,
        budget_left=None,
        graphs=len(policy.workspace.graphs),
        difference=rollout_difference(whole, again),
    )


def in_update(subject: Subject, policy: Policy, limiter: Limiter) -> results.Drill:
    """All of a step's completions at a time, and then as many as fit."""
    recipe = subject.recipe(train={"tokens_per_micro_batch": 8192, "learning_rate": 1e-12})
    rollouts, advantages = step_of(subject, policy)
    policy.workspace.release()

    def gradient(budget: TokenBudget) -> torch.Tensor:
        optimizer = build_optimizer(policy, recipe.train)
        policy_update(policy, optimizer, rollouts, advantages, recipe, step=1, budget=budget)
        return torch.cat([p.grad.flatten().cpu() for p in policy.trainable.values() if p.grad is not None])

    with checkpointing(subject, policy):
        whole, taken = limiter.measured(lambda: gradient(update_budget(recipe.train)))
        policy.model.zero_grad(set_to_none=True)
        budget, again, ran_out = update_budget(recipe.train), whole, False
        for share in _SHARES:
            before = limiter.times()
            with limiter.limited(round(share * taken)):
                again = gradient(budget)
            policy.model.zero_grad(set_to_none=True)
            ran_out = limiter.times() > before
            if ran_out:
                break
    return results.Drill(
        where="update",
        ran_out=ran_out,
        budget=recipe.train.tokens_per_micro_batch,
        budget_left=budget.tokens,
        graphs=None,
        difference=float((again - whole).norm() / whole.norm()),
    )


def _settings(subject: Subject) -> SamplingSettings:
    return SamplingSettings(GENERATIONS, subject.shape.completion_tokens)


def rollout_difference(one: Rollouts, other: Rollouts) -> float:
    """Mean difference of log-probabilities, as far as the completions are the same: in 16 bits rounding
    may draw another token, after which nothing can be compared. Infinite where that is soon.
    """
    width = min(one.completion_ids_N_T.shape[1], other.completion_ids_N_T.shape[1])
    same_N_T = one.completion_ids_N_T[:, :width] == other.completion_ids_N_T[:, :width]
    same_N_T = same_N_T.long().cumprod(dim=1).bool() & one.completion_mask_N_T[:, :width]
    if same_N_T.sum() < one.completion_mask_N_T.sum() / 4:
        return float("inf")
    ours, theirs = (r.sampling_logprobs_N_T[:, :width][same_N_T] for r in (one, other))
    return float((ours - theirs).abs().mean())
