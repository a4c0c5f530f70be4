"""One optimizer update from one batch of rollouts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from pgrpo_cli.algo import Advantages, mean_metrics, policy_loss
from pgrpo_cli.errors import RecipeError, TrainingError
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.recipe.training import TrainSection
from pgrpo_cli.seeding import derive_seed

from .logprobs import packed_logprobs, scatter
from .packing import Packed, micro_batches, pack
from .padded import padded_logprobs
from .policy import Policy
from .rollout import Rollouts


@dataclass(frozen=True)
class UpdateResult:
    """What an update did. `grad_norm` is the norm before clipping; `tokens` are those of the packed rows."""

    loss: float
    grad_norm: float
    metrics: dict[str, float]
    tokens: int


def build_optimizer(policy: Policy, section: TrainSection) -> torch.optim.Optimizer:
    """The optimizer of the recipe over the adapter's parameters. Raises RecipeError for one the device
    lacks.
    """
    settings = section.optimizer
    arguments: dict[str, Any] = {
        "lr": section.learning_rate,
        "betas": (settings.beta1, settings.beta2),
        "eps": settings.epsilon,
        "weight_decay": settings.weight_decay,
    }
    parameters = list(policy.trainable.values())
    if settings.type == "adamw":
        return torch.optim.AdamW(parameters, **arguments)
    if policy.device.type != "cuda":
        raise RecipeError(
            f"train.optimizer.type is adamw_8bit, which needs CUDA; this run is on {policy.device.type}",
            remedy="Use `adamw`: an adapter's optimizer state is small.",
        )
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(parameters, **arguments)


def learning_rate(section: TrainSection, step: int) -> float:
    """Learning rate of a step (counted from 1): linear warm-up, then constant, or a cosine to 0 after the
    last step.
    """
    if step <= section.warmup_steps:
        return section.learning_rate * step / section.warmup_steps
    if section.schedule == "constant":
        return section.learning_rate
    progress = (step - 1 - section.warmup_steps) / max(1, section.steps - section.warmup_steps)
    return section.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def policy_update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    rollouts: Rollouts,
    advantages: Advantages,
    recipe: Recipe,
    *,
    step: int,
) -> UpdateResult:
    """Accumulate the loss of the whole batch over micro-batches, clip the gradient, step.

    The loss is normalised by the whole batch, so its gradient does not depend on the cut into micro-batches.
    Raises TrainingError if the gradient is not finite; the weights are then unchanged.
    """
    policy.workspace.make_room(policy.device)
    policy.model.train()
    optimizer.zero_grad(set_to_none=True)
    loss, tokens, shares = 0.0, 0, []
    for index, rows in enumerate(micro_batches(rollouts, recipe.train.tokens_per_micro_batch)):
        packed = pack(rows, rollouts, pad_token_id=policy.tokenizer.pad_token_id)
        torch.manual_seed(derive_seed(recipe.seed, "dropout", step, index))
        share = _loss(policy, packed, rollouts, advantages, recipe)
        share.loss.backward()  # type: ignore[no-untyped-call]
        loss += share.loss.item()
        tokens += packed.input_ids_R_L.numel()
        shares.append(share.metrics)
    grad_norm = torch.nn.utils.clip_grad_norm_(policy.trainable.values(), recipe.train.max_grad_norm).item()
    if not math.isfinite(grad_norm):
        raise TrainingError(
            f"step {step}: the gradient is not finite (norm {grad_norm})",
            remedy="Lower train.learning_rate, or use bfloat16 or float32 as model.compute_dtype.",
        )
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(recipe.train, step)
    optimizer.step()
    return UpdateResult(loss, grad_norm, mean_metrics(shares), tokens)


def completion_logprobs(policy: Policy, packed: Packed, *, temperature: float) -> torch.Tensor:
    """Log-probabilities [N, T] (float32, 0 on padding) of completions under softmax(logits / temperature)."""
    path = packed_logprobs if policy.paths.packed else padded_logprobs
    return scatter(path(policy, packed, temperature=temperature), packed)


def _loss(policy: Policy, packed: Packed, rollouts: Rollouts, advantages: Advantages, recipe: Recipe) -> Any:
    settings, temperature = recipe.loss, recipe.rollout.temperature
    reference_N_T = None
    if settings.beta > 0:
        with torch.no_grad(), policy.base():
            reference_N_T = completion_logprobs(policy, packed, temperature=temperature)
    logprobs_N_T = completion_logprobs(policy, packed, temperature=temperature)
    n, T = packed.completions_N, logprobs_N_T.shape[1]
    device = logprobs_N_T.device
    trained_N_T = rollouts.completion_mask_N_T & advantages.valid_N.unsqueeze(1)
    return policy_loss(
        logprobs_N_T,
        rollouts.sampling_logprobs_N_T[n, :T].to(device),
        advantages.advantages_N[n].to(device),
        trained_N_T[n, :T].to(device),
        reference_logprobs_N_T=reference_N_T,
        clip_low=settings.clip_low,
        clip_high=settings.clip_high,
        beta=settings.beta,
        aggregation=settings.aggregation,
        num_completions=len(advantages.advantages_N),
        num_tokens=int(trained_N_T.sum()),
        max_completion_tokens=recipe.rollout.max_completion_tokens,
    )
