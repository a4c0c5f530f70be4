"""Runs of a few steps, made by `train` itself, and the check that one goes on as if it had not stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import load_file

from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.model.adapter import restore_adapter
from pgrpo_cli.model.policy import Policy
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.rewards.build import build_rewards
from pgrpo_cli.state.checkpoint import Checkpoint, checkpoint_at
from pgrpo_cli.state.run import RunDirectory, claim
from pgrpo_cli.train import train

from . import results
from .subject import Subject

_STEPS = 3
_PROMPTS, _TOKENS, _COMPLETION = 2, 32, 8
"""Of a step of the run that is resumed: small, as what is looked for depends on none of them."""


class Silent:
    """Watches a run, and keeps what it has to say."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def on_phase(self, step: int, phase: str) -> None: ...

    def on_step(self, record: Mapping[str, Any], groups: Mapping[str, Any]) -> None: ...

    def on_message(self, text: str) -> None:
        self.messages.append(text)


def make_steps(
    subject: Subject,
    run: RunDirectory,
    recipe: Recipe,
    policy: Policy,
    prompts: Sequence[PreparedPrompt],
    *,
    checkpoint: Checkpoint | None = None,
) -> list[str]:
    """All steps of the recipe, or those after the checkpoint, whose adapter the policy must have. Returns
    what the run has to say, such as that memory ran out.
    """
    observer = Silent()
    rewards = build_rewards(recipe.rewards, subject.folder, False)
    claim(run, recipe, subject.folder)
    try:
        train(run, recipe, policy, prompts, rewards, checkpoint=checkpoint, observer=observer)
    finally:
        # The next check has a recipe of its own.
        policy.model.gradient_checkpointing_disable()
    return observer.messages


def resume(subject: Subject) -> tuple[results.Resume, str | None]:
    """On a CPU all kernels are deterministic; on a GPU those that a recipe may ask for are tried, too."""
    settings = (False, True) if subject.on_gpu else (False,)
    compared = [_resumed(subject, deterministic) for deterministic in settings]
    problems = [problem for _, problem in compared if problem]
    return results.Resume(runs=tuple(run for run, _ in compared)), problems[0] if problems else None


def _resumed(subject: Subject, deterministic: bool) -> tuple[results.ResumedRun, str | None]:
    """The third of three steps, once in a row with the others and once from the checkpoint of the second."""
    policy, run = subject.policy, RunDirectory(subject.folder / f"resume-{deterministic}")
    train = {"prompts_per_step": _PROMPTS, "steps": _STEPS, "learning_rate": 1e-3, "schedule": "constant"}
    recipe = subject.recipe(
        rollout={"max_completion_tokens": _COMPLETION}, train={**train, "deterministic": deterministic}
    )
    prompts = subject.prompts(4 * _PROMPTS, _TOKENS)
    started = subject.seconds()
    make_steps(subject, run, recipe, policy, prompts)
    seconds = (subject.seconds() - started) / _STEPS
    before, at_once = _saved(run, _STEPS - 1), _saved(run, _STEPS)
    checkpoint = checkpoint_at(run, _STEPS - 1)
    restore_adapter(policy.model, checkpoint.path)
    make_steps(subject, run, recipe, policy, prompts, checkpoint=checkpoint)
    resumed = _saved(run, _STEPS)
    return _compared(before, at_once, resumed, seconds, deterministic=deterministic)


_States = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]
"""Of a checkpoint: the adapter's weights, and the optimizer's states."""


def _saved(run: RunDirectory, step: int) -> _States:
    folder = checkpoint_at(run, step).path
    return load_file(folder / "adapter_model.safetensors"), load_file(folder / "optimizer.safetensors")


def _compared(
    before: _States, at_once: _States, resumed: _States, seconds: float, *, deterministic: bool = False
) -> tuple[results.ResumedRun, str | None]:
    """The two third steps; `before` is where they began."""
    difference = _largest_difference(at_once[0], resumed[0])
    change = _largest_difference(before[0], at_once[0])
    differing = [n for n, state in at_once[1].items() if not _same(state, resumed[1].get(n))]
    found = results.ResumedRun(
        deterministic=deterministic,
        bit_for_bit=difference == 0 and not differing,
        adapter_difference=difference,
        adapter_change=change,
        differing_states=len(differing),
        states=len(at_once[1]),
        step_seconds=seconds,
    )
    if change == 0 or not at_once[1]:
        return found, "a step changed nothing"
    if not difference <= change / 2:
        return found, (
            f"after going on, a weight of the adapter differs by {difference:.2g}, where the whole step "
            f"changed {change:.2g}: the state is not restored"
        )
    return found, None


def _same(one: torch.Tensor, other: torch.Tensor | None) -> bool:
    return other is not None and one.dtype == other.dtype and torch.equal(one, other)


def _largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Over the same names; infinite where the names differ, not a number where a value is none."""
    if one.keys() != other.keys() or not one:
        return float("inf")
    # Unlike Python's own, torch's maximum does not lose what is not a number.
    return float(torch.stack([(one[name] - other[name]).abs().max() for name in one]).max())
