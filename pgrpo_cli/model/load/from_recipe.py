"""Loads the policy of a recipe: base model, adapter and tokenizer, and the fastest paths that are exact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pgrpo_cli.pretrained.device import set_up
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.seeding import derive_seed

from ..nf4 import keep_differentiable
from ..policy import HEAD_CHUNK, Paths, Policy
from ..rollout.cpu_weights import fastest_dtype
from ..rollout.weight_copies import rows_from_which_copies_are_faster
from ..update.packed_attention import use_packed_attention
from .adapted_linear import use_adapted_linears
from .adapter import attach_adapter, restore_adapter
from .allocator import keep_freed_memory
from .base_model import fit_tokenizer, load_base_model, load_tokenizer
from .frozen import freeze
from .logit_scale import measured_logit_scale
from .precision import device_for
from .probe import can_sample, probe


def load_policy(
    recipe: Recipe,
    *,
    recipe_dir: Path,
    device: torch.device | None = None,
    adapter: Path | None = None,
    tokenizer: Any = None,
    paths: Paths | None = None,
) -> Policy:
    """Load the base model and attach a LoRA adapter: a new one, or the one saved in the folder `adapter`.

    `tokenizer`: the model's tokenizer, if the caller has loaded it already. `paths`: the result of an earlier
    measurement; None: measure now. The weights of a new adapter depend only on the recipe's seed. Raises
    ModelError or CheckpointError.
    """
    device = device or device_for(recipe)
    tokenizer = tokenizer or load_tokenizer(recipe.model, recipe_dir)
    base = load_base_model(recipe.model, recipe_dir, device)
    fit_tokenizer(tokenizer, base, recipe.model)
    return adapted(base, tokenizer, recipe, device, adapter=adapter, paths=paths)


def adapted(
    base: Any,
    tokenizer: Any,
    recipe: Recipe,
    device: torch.device,
    *,
    adapter: Path | None = None,
    paths: Paths | None = None,
) -> Policy:
    """Like `load_policy`, for a base model that is in memory already."""
    set_up(device)
    if device.type == "cpu":
        keep_freed_memory()
        use_packed_attention(base)
    # Before the first forward pass, which the probe below makes.
    keep_differentiable(base)
    freeze(base)
    base.config.use_cache = True
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive_seed(recipe.seed, "adapter"))
        model = attach_adapter(base, recipe.adapter)
    if adapter is not None:
        restore_adapter(model, adapter)
    use_adapted_linears(model)
    policy = Policy(model, tokenizer, device, head_chunk=HEAD_CHUNK[device.type])
    policy = replace(policy, logit_scale=measured_logit_scale(policy))
    if paths is None:
        paths = replace(probe(policy), copy_from_rows=_copy_from_rows(policy))
        paths = replace(paths, rollout_dtype=_rollout_dtype(replace(policy, paths=paths)))
    return replace(policy, paths=paths)


def _rollout_dtype(policy: Policy) -> torch.dtype:
    """The fastest dtype of those in which rollouts run."""
    dtype = fastest_dtype(policy)
    wanted = replace(policy, paths=replace(policy.paths, rollout_dtype=dtype))
    return dtype if dtype == policy.dtype or can_sample(wanted) else policy.dtype


def _copy_from_rows(policy: Policy) -> int | None:
    return rows_from_which_copies_are_faster(policy.model) if policy.device.type == "cuda" else None
