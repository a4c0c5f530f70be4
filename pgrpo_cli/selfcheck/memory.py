"""Does a run hold what was planned? On a CPU torch counts nothing that a plan could be compared with."""

from __future__ import annotations

import torch

from pgrpo_cli.model.memory.budgets import with_budgets
from pgrpo_cli.model.memory.planner import Planner, paths_with_budgets
from pgrpo_cli.pretrained.memory import release_memory
from pgrpo_cli.state.run import RunDirectory

from . import results
from .runs import make_steps
from .subject import Subject

_UNDER, _LIBRARIES = 0.95, 128 << 20
"""A plan may be so much less than what is held: a share, and bytes that cuBLAS, for instance, takes from
torch's allocator, which plans count among their overheads.
"""


def plan(subject: Subject) -> tuple[results.Plan, str | None]:
    """Beside three steps of a run of the shape's recipe, with the budgets that a run chooses."""
    subject.need_gpu()
    policy = subject.policy
    recipe = subject.recipe(rollout={"tokens_per_batch": "auto"}, train={"tokens_per_micro_batch": "auto"})
    prompts = subject.prompts(recipe.train.steps * recipe.train.prompts_per_step)
    subject.write_model()
    chosen = paths_with_budgets(policy, recipe, subject.folder, prompts)
    recipe = with_budgets(recipe, chosen.tokens_per_batch, chosen.tokens_per_micro_batch)
    planner = Planner(subject.folder, longest_prompt=subject.shape.prompt_tokens, paths=policy.paths)
    total = torch.cuda.get_device_properties(subject.device).total_memory
    planned = planner.plan(recipe, "cuda").tensors_on(total)
    release_memory()
    torch.cuda.reset_peak_memory_stats(subject.device)
    messages = make_steps(subject, RunDirectory(subject.folder / "plan"), recipe, policy, prompts)
    measured = torch.cuda.max_memory_allocated(subject.device)
    found = results.Plan(
        tokens_per_batch=recipe.rollout.batch_budget,
        tokens_per_micro_batch=recipe.train.micro_batch_budget,
        planned_bytes=planned,
        measured_bytes=measured,
        ratio=planned / measured,
    )
    if messages:
        return found, f"the budgets that a run chooses do not fit: {messages[0]}"
    return found, _problem(planned, measured)


def _problem(planned: int, measured: int) -> str | None:
    if planned >= _UNDER * measured - _LIBRARIES:
        return None
    return "a run holds more than `pgrpo plan` says, and may run out of memory where that says it fits"
