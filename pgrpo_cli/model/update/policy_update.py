"""One optimizer update from one batch of rollouts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch

from pgrpo_cli.algo.estimators import Aggregation
from pgrpo_cli.algo.losses import mean_metrics, policy_loss
from pgrpo_cli.algo.types import Advantages, LossOutput, UpdateResult
from pgrpo_cli.errors import TrainingError
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.recipe.training import LossSection, RolloutSection, TrainSection
from pgrpo_cli.seeding import derive_seed

from ..oom import Piece, TokenBudget, in_pieces
from ..policy import Policy
from ..rollouts import Rollouts
from .determinism import deterministic
from .logprobs import packed_logprobs, scatter
from .loss_scale import scale_in
from .packing import Packed, Row, micro_batches, pack
from .padded import padded_logprobs

_REMEDY = (
    "Set train.gradient_checkpointing to true, lower data.max_prompt_tokens or "
    "rollout.max_completion_tokens, or use a smaller model; `pgrpo plan` says what fits."
)


def update_budget(train: TrainSection, on_note: Callable[[str], None] = lambda text: None) -> TokenBudget:
    """The number of tokens that a micro-batch may hold; `on_note` is called when it is lowered."""
    return TokenBudget(train.micro_batch_budget, "micro-batches", _REMEDY, on_note)


def policy_update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    rollouts: Rollouts,
    advantages: Advantages,
    recipe: Recipe,
    *,
    step: int,
    update: int = 0,
    budget: TokenBudget | None = None,
) -> UpdateResult:
    """Accumulate the gradient of the whole batch over micro-batches, clip it, and take one optimizer step.

    The loss is normalised by the whole batch. So the gradient does not depend on how the batch is cut into
    micro-batches, except for the adapter's dropout, which is drawn for each micro-batch. `update`: how many
    updates these rollouts have had. `budget`: tokens per
    micro-batch, lowered if they do not fit; None: that of the recipe. In float16 the loss is scaled, and a
    gradient that overflows is computed again with half the scale. Raises TrainingError, with the weights
    unchanged, if not even one completion fits, if the gradient is not finite, or if it cannot be computed
    deterministically although `train.deterministic` is set.
    """
    policy.workspace.make_room(policy.device)
    policy.train()
    budget = budget or update_budget(recipe.train)
    with deterministic(recipe.train, strict=True):
        shares, grad_norm, lowered = _gradient(
            policy, optimizer, rollouts, advantages, recipe, step, update, budget
        )
        for group in optimizer.param_groups:
            group["lr"] = recipe.train.learning_rate_at(step)
        optimizer.step()
    tokens = sum(len(share.row_lengths) * max(share.row_lengths) for share in shares)
    return UpdateResult(
        loss=sum(share.loss for share in shares),
        grad_norm=grad_norm,
        metrics=mean_metrics(share.metrics for share in shares),
        tokens=tokens,
        padding=tokens - sum(sum(share.row_lengths) for share in shares),
        reference_seconds=sum(share.reference_seconds for share in shares),
        lowered_scale=lowered,
    )


@dataclass(frozen=True)
class _Share:
    """The contribution of one micro-batch to an update."""

    loss: float
    metrics: dict[str, torch.Tensor]
    row_lengths: list[int]
    reference_seconds: float


def _gradient(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    rollouts: Rollouts,
    advantages: Advantages,
    recipe: Recipe,
    step: int,
    update: int,
    budget: TokenBudget,
) -> tuple[list[_Share], float, float | None]:
    """Leave the clipped gradient in the parameters. Returns the shares of the micro-batches, the norm before
    clipping, and the new loss scale if it had to be lowered.
    """
    scale = scale_in(policy.dtype, policy.loss_scale)
    lowered = None
    while True:
        optimizer.zero_grad(set_to_none=True)
        shares = _accumulate(policy, rollouts, advantages, recipe, step, update, budget, scale.value)
        parameters = policy.trainable.values()
        grad_norm = torch.nn.utils.clip_grad_norm_(parameters, recipe.train.max_grad_norm).item()
        loss = sum(share.loss for share in shares)
        # A lower scale helps against an overflow of the gradient, but not if the loss itself is not finite.
        if math.isfinite(grad_norm) or not math.isfinite(loss) or not scale.halve():
            break
        lowered = scale.value
    if not math.isfinite(grad_norm):
        raise TrainingError(
            f"step {step}: the gradient is not finite (norm {grad_norm})",
            remedy="Lower train.learning_rate, or use bfloat16 or float32 as model.compute_dtype.",
        )
    return shares, grad_norm, lowered


def _accumulate(
    policy: Policy,
    rollouts: Rollouts,
    advantages: Advantages,
    recipe: Recipe,
    step: int,
    update: int,
    budget: TokenBudget,
    scale: float,
) -> list[_Share]:
    """Accumulate the gradient of the whole batch, one micro-batch after the other, with the loss scaled by
    `scale`.
    """
    shares: list[_Share] = []

    def accumulate(rows: list[Row]) -> _Share:
        packed = pack(rows, rollouts, pad_token_id=policy.tokenizer.pad_token_id)
        # Dropout depends on (seed, step, update, micro-batch) only, so that a resumed run repeats it.
        place = (step, update) if update else (step,)
        torch.manual_seed(derive_seed(recipe.seed, "dropout", *place, len(shares)))
        reference_N_T, seconds = reference_logprobs(
            policy, packed, beta=recipe.loss.beta, temperature=recipe.rollout.temperature
        )
        share = micro_batch_loss(
            policy, packed, rollouts, advantages, recipe.resolved_loss, recipe.rollout, reference_N_T
        )
        lengths = _row_lengths(rows, rollouts, packed=policy.paths.packed)
        return _Share(_add_gradient(share.loss, policy, scale), share.metrics, lengths, seconds)

    completions = range(len(rollouts.completion_ids_N_T))
    for share in in_pieces(completions, partial(_cut, rollouts), accumulate, budget):
        shares.append(share)
    return shares


def _row_lengths(rows: list[Row], rollouts: Rollouts, *, packed: bool) -> list[int]:
    """The length of each row that the model computes: rows of whole prompts if packed, else one row per
    completion.
    """
    if packed:
        return [row.length for row in rows]
    lengths_N = rollouts.lengths_N
    return [
        len(rollouts.prompts[row.prompt].input_ids) + lengths_N[n] for row in rows for n in row.completions
    ]


def _cut(rollouts: Rollouts, completions: Sequence[int], tokens: int) -> Iterator[Piece[list[Row]]]:
    """Cut the given completions into micro-batches."""
    for rows in micro_batches(rollouts, tokens, completions):
        inside = [n for row in rows for n in row.completions]
        yield Piece(rows, inside, len(rows) * max(row.length for row in rows))


def _add_gradient(loss: torch.Tensor, policy: Policy, scale: float) -> float:
    """Add the gradient of `loss` to that of the adapter. If memory runs out, nothing is added.

    The backward pass starts from `scale` times the loss, and the gradient is divided by `scale` afterwards.
    """
    parameters = list(policy.trainable.values())
    # backward() adds the gradients one by one. If it failed half-way, some would be added, and the
    # micro-batch could not be repeated.
    gradients = torch.autograd.grad(loss * scale, parameters, allow_unused=True)
    value = loss.item()
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            if scale != 1:
                gradient = gradient / scale
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
    return value


def completion_logprobs(policy: Policy, packed: Packed, *, temperature: float) -> torch.Tensor:
    """Log-probabilities [N, T] (float32, 0 on padding) of completions under softmax(logits / temperature)."""
    path = packed_logprobs if policy.paths.packed else padded_logprobs
    return scatter(path(policy, packed, temperature=temperature), packed)


def reference_logprobs(
    policy: Policy, packed: Packed, *, beta: float, temperature: float
) -> tuple[torch.Tensor | None, float]:
    """Log-probabilities under the base model, and the seconds they took; (None, 0) without a KL penalty."""
    if beta == 0:
        return None, 0.0
    started = _now(policy.device)
    with torch.no_grad(), policy.base():
        logprobs_N_T = completion_logprobs(policy, packed, temperature=temperature)
    return logprobs_N_T, _now(policy.device) - started


def _now(device: torch.device) -> float:
    """The time in seconds, after waiting for the device: kernels run asynchronously."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def micro_batch_loss(
    policy: Policy,
    packed: Packed,
    rollouts: Rollouts,
    advantages: Advantages,
    settings: LossSection,
    rollout: RolloutSection,
    reference_N_T: torch.Tensor | None,
) -> LossOutput:
    """The share of a micro-batch in the loss of the step, and in its metrics. `settings`: `resolved_loss`."""
    logprobs_N_T = completion_logprobs(policy, packed, temperature=rollout.temperature)
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
        aggregation=cast(Aggregation, settings.aggregation),
        num_completions=len(advantages.advantages_N),
        num_tokens=int(trained_N_T.sum()),
        max_completion_tokens=rollout.max_completion_tokens,
    )
