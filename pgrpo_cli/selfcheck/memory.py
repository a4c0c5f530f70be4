"""Does a run hold what was planned? On a CPU torch counts nothing that a plan could be compared with."""

from __future__ import annotations

import torch

from pgrpo_cli.model.memory.planner import Planner
from pgrpo_cli.model.oom import release_memory
from pgrpo_cli.state.run import RunDirectory

from . import results
from .runs import make_steps
from .subject import Subject

_UNDER, _LIBRARIES = 0.95, 128 << 20
"""A plan may be so much less than what is held: a share, and bytes that cuBLAS, for instance, takes from
torch's allocator, which plans count among their overheads.
"""


def plan(subject: Subject) -> tuple[results.Plan, str | None]:
    """Beside three steps of a run of the shape's recipe."""
    subject.need_gpu()
    policy, recipe = subject.policy, subject.recipe()
    subject.write_model()
    planner = Planner(subject.folder, longest_prompt=subject.shape.prompt_tokens, paths=policy.paths)
    total = torch.cuda.get_device_properties(subject.device).total_memory
    planned = planner.plan(recipe, "cuda").tensors_on(total)
    release_memory()
    torch.cuda.reset_peak_memory_stats(subject.device)
    prompts = subject.prompts(recipe.train.steps * recipe.train.prompts_per_step)
    make_steps(subject, RunDirectory(subject.folder / "plan"), recipe, policy, prompts)
    return beside(planned, torch.cuda.max_memory_allocated(subject.device))


def beside(planned: int, measured: int) -> tuple[results.Plan, str | None]:
    """What was planned, beside what was measured."""
    found = results.Plan(planned_bytes=planned, measured_bytes=measured, ratio=planned / measured)
    problem = "a run holds more than `pgrpo plan` says, and may run out of memory where that says it fits"
    return found, problem if planned < _UNDER * measured - _LIBRARIES else None
