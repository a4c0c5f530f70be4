"""Makes memory plans: runs the code of training and sampling on the meta device, and counts the bytes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.errors import ModelError
from pgrpo_cli.pretrained.location import first_line
from pgrpo_cli.recipe.schema import Recipe

from ..nf4 import unquantized
from ..policy import HEAD_CHUNK, Paths, Policy
from ..rollout.cpu_weights import fastest_dtype
from ..rollout.sampling import sampling_settings
from .budgets import fitted, with_budgets
from .loading import loading_bytes
from .meta_policy import meta_policy
from .plan import (
    ADAPTER,
    CARDS_GIB,
    GIB,
    GRADIENTS,
    LOADING,
    OPTIMIZER,
    OVERHEADS,
    REWARDS,
    STEP,
    Device,
    MemoryPlan,
    Phase,
)
from .rewards import reward_bytes
from .weights import adapter_bytes, base_parameters, base_weights, dequantized_bytes, optimizer_bytes
from .work import Batch, Held, largest_batch, largest_micro_batch, rollout_memory, update_memory

Result = TypeVar("Result")

_UNPLANNED = 16384, 4096
"""Budgets of a rollout batch and a micro-batch on a GPU, for models whose memory cannot be planned."""

_NOT_ON_META = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError)
"""Errors of models that do not run on the meta device: those whose code reads values of tensors (mixtures of
experts), and those without keys to share (recurrent layers).
"""


class Planner:
    """Plans recipes of one folder, and caches the results that they have in common.

    `longest_prompt`: in tokens; None: the recipe's limit. `paths`: as measured by the run; None: the fast
    paths.
    """

    def __init__(
        self, recipe_dir: Path, *, longest_prompt: int | None = None, paths: Paths | None = None
    ) -> None:
        self._recipe_dir, self._longest, self._paths = recipe_dir, longest_prompt, paths
        self._known: dict[str, Any] = {}

    def longest_prompt(self, recipe: Recipe) -> int:
        """The number of tokens of the longest possible prompt."""
        return self._longest or recipe.data.max_prompt_tokens

    def plan(self, recipe: Recipe, device: Device, room: int = CARDS_GIB[0] * GIB) -> MemoryPlan:
        """The plan for a device. Budgets that are `auto` are chosen for a GPU with `room` bytes.

        Raises ModelError for a model that cannot be found, or that does not run on the meta device.
        """
        longest = self.longest_prompt(recipe)
        recipe = fitted(recipe, device, room, longest, lambda recipe: self.plan(recipe, device))
        on_meta: Policy | None = None
        try:
            on_meta = self._once(
                "policy", lambda: meta_policy(recipe, self._recipe_dir), recipe.model, recipe.adapter
            )
            return self._plan(on_meta, recipe, device)
        except _NOT_ON_META as error:
            raise _unplanned(recipe, error, on_meta) from error

    def _plan(self, on_meta: Policy, recipe: Recipe, device: Device) -> MemoryPlan:
        longest = self.longest_prompt(recipe)
        micro_batch, several = largest_micro_batch(recipe.rollout, recipe.train, longest)
        batch, several_batches = largest_batch(recipe.rollout, recipe.train.prompts_per_step, longest)
        policy, rollout = self._rollout(on_meta, recipe, device, batch)
        update = self._once(
            "update",
            lambda: update_memory(
                policy, recipe.resolved_loss, recipe.rollout, micro_batch,
                checkpointing=recipe.train.gradient_checkpointing,
            ),
            recipe.model, recipe.adapter, recipe.loss, micro_batch,
            recipe.train.gradient_checkpointing, policy.paths.packed, policy.head_chunk,
        )  # fmt: skip
        weights, adapter = base_weights(policy), adapter_bytes(policy)
        state = optimizer_bytes(policy.trainable.values(), recipe.train.optimizer)
        rewards = self._once(
            "rewards",
            lambda: reward_bytes(recipe.rewards, self._recipe_dir, device),
            *recipe.rewards, device,
        )  # fmt: skip
        standing = weights + Counter({REWARDS: rewards, ADAPTER: adapter, OPTIMIZER: state})
        # AdamW's temporary square roots: for all parameters at once on a GPU (foreach), one by one on a CPU.
        step = Counter({GRADIENTS: adapter, STEP: adapter if device == "cuda" else 0})
        passes = update.peak + Counter({GRADIENTS: adapter if several else 0})
        loading = loading_bytes(policy, recipe.model, self._recipe_dir, device)
        # The gradients of the previous step are freed only when the next update begins.
        before_rollouts = standing + Counter({GRADIENTS: adapter})
        return MemoryPlan(
            device=device,
            parameters=base_parameters(policy),
            adapter_parameters=sum(p.numel() for p in policy.trainable.values()),
            batch=batch,
            micro_batch=micro_batch,
            phases=(
                Phase("load", weights + Counter({REWARDS: rewards, LOADING: loading})),
                Phase("rollout", before_rollouts + (rollout.next_peak if several_batches else rollout.peak)),
                Phase("update", standing + max(passes, step, key=Counter.total)),
            ),
            kept_weights=dequantized_bytes(policy) if device == "cuda" else 0,
            kept_buffers=rollout.kept,
            rollout_beside_kept=(before_rollouts + rollout.next_peak).total(),
            copy_from_rows=policy.paths.copy_from_rows,
            tokens_per_batch=recipe.rollout.batch_budget,
            tokens_per_micro_batch=recipe.train.micro_batch_budget,
            unquantized=unquantized(policy.model.get_base_model()),
        )

    def _rollout(self, on_meta: Policy, recipe: Recipe, device: Device, batch: Batch) -> tuple[Policy, Held]:
        """The policy with the paths that it takes, and the memory of a rollout."""
        settings = sampling_settings(recipe.rollout)
        paths = self._paths or Paths()
        policy = replace(on_meta, device=torch.device(device), paths=paths, head_chunk=HEAD_CHUNK[device])
        if device == "cpu" and paths.rollout_dtype is None:
            policy = replace(policy, paths=replace(paths, rollout_dtype=fastest_dtype(policy)))

        rollout = self._once(
            "rollout",
            lambda: rollout_memory(policy, settings, batch),
            recipe.model, recipe.adapter, settings, batch, device, policy.paths,
        )  # fmt: skip
        return replace(policy, device=on_meta.device), rollout

    def _once(self, what: str, compute: Callable[[], Result], *key: Any) -> Result:
        """The result of `compute`, cached by `what` and `key`."""
        parts = [part.model_dump() if hasattr(part, "model_dump") else repr(part) for part in key]
        name = json.dumps([what, *parts])
        if name not in self._known:
            self._known[name] = compute()
        return self._known[name]  # type: ignore[no-any-return]


def _unplanned(recipe: Recipe, error: Exception, on_meta: Policy | None) -> ModelError:
    why = f"{type(error).__name__}: {first_line(error)}"
    text = (
        f"the memory of {recipe.model.id!r} cannot be planned, since its code does not run on shapes alone "
        f"({why})"
    )
    if on_meta is not None:
        text += f". Its weights alone take {base_weights(on_meta).total() / GIB:.1f} GiB"
        left = unquantized(on_meta.model.get_base_model())
        text += f"; {left}" if left else ""
    return ModelError(
        text, remedy="Train a step and watch the GPU; where memory runs out, a run shrinks its batches."
    )


def paths_with_budgets(
    policy: Policy, recipe: Recipe, recipe_dir: Path, prompts: Sequence[PreparedPrompt]
) -> Paths:
    """The policy's paths with the recipe's budgets; those that are `auto` are chosen to fit on the device.

    A model whose memory cannot be planned gets `_UNPLANNED`. If these do not fit, they are lowered later.
    """
    device: Device = "cuda" if policy.device.type == "cuda" else "cpu"
    room = room_on(policy.device) if device == "cuda" else 0
    longest = max(len(prompt.input_ids) for prompt in prompts)
    try:
        plan = Planner(recipe_dir, longest_prompt=longest, paths=policy.paths).plan
        recipe = fitted(recipe, device, room, longest, lambda recipe: plan(recipe, device))
    except ModelError:
        recipe = with_budgets(recipe, *_UNPLANNED)
    return replace(
        policy.paths,
        tokens_per_batch=recipe.rollout.batch_budget,
        tokens_per_micro_batch=recipe.train.micro_batch_budget,
    )


def room_on(device: torch.device) -> int:
    """Bytes of a CUDA device that this process can use, including its context and what it has allocated."""
    free, total = torch.cuda.mem_get_info(device)
    return min(total, free + torch.cuda.memory_reserved(device) + OVERHEADS["cuda"].fixed)
