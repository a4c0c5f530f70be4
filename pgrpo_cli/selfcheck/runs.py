"""Runs of a few steps, made by `train` itself, and the check that one continues as if it had not stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import load_file

from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.errors import TrainingError
from pgrpo_cli.model.load.adapter import restore_adapter
from pgrpo_cli.model.policy import Policy
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.rewards.build import build_rewards
from pgrpo_cli.state.checkpoint import Checkpoint, checkpoint_at
from pgrpo_cli.state.run import RunDirectory, claim
from pgrpo_cli.training import train_policy

from . import results
from .subject import Subject

_STEPS = 3
_DIFFERENCE = 0.25
"""Of what a step changes: AdamW makes much of the rounding of small gradients, which on a GPU is not the same
twice. A step from an optimizer without its state differs by more.
"""
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
        train_policy(run, recipe, policy, prompts, rewards, checkpoint=checkpoint, observer=observer)
    finally:
        # The next check has a recipe of its own.
        policy.model.gradient_checkpointing_disable()
    return observer.messages


def resume(subject: Subject) -> tuple[results.Resume, str | None]:
    """On a CPU all kernels are deterministic; on a GPU those that a recipe may ask for are tried, too."""
    settings = (False, True) if subject.on_gpu else (False,)
    runs, problems = [], []
    for deterministic in settings:
        try:
            run, problem = _resumed(subject, deterministic)
            runs.append(run)
        except TrainingError as error:
            problem = error.message
        if problem:
            problems.append(f"with train.deterministic, {problem}" if deterministic else problem)
    return results.Resume(runs=tuple(runs)), "; ".join(problems) or None


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
    if not at_once[0].keys() == before[0].keys() == resumed[0].keys():
        raise TrainingError("the checkpoints of a run hold different weights")
    difference, change = (_flat(at_once[0]) - _flat(other[0]) for other in (resumed, before))
    share = float(difference.norm() / change.norm())
    differing = [n for n, state in at_once[1].items() if not _same(state, resumed[1].get(n))]
    found = results.ResumedRun(
        deterministic=deterministic,
        bit_for_bit=not difference.any() and not differing,
        difference=share,
        largest_difference=float(difference.abs().max()),
        differing_states=len(differing),
        states=len(at_once[1]),
        step_seconds=seconds,
    )
    if not change.any() or not at_once[1]:
        return found, "a step changed nothing"
    if not share <= _DIFFERENCE:
        return found, (
            f"what a step changes differs by {share:.0%} after continuing: the state is not restored"
        )
    return found, None


def _flat(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([weights[name].flatten() for name in sorted(weights)])


def _same(one: torch.Tensor, other: torch.Tensor | None) -> bool:
    return other is not None and one.dtype == other.dtype and torch.equal(one, other)
