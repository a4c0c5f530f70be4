"""Drawing the next tokens of all rows, from uniform numbers that are fixed beforehand.

Each completion has a row of uniform numbers, one per position, which depends only on (seed, prompt id,
completion) and, where a step has a prompt several times, on which of them it is. A token is then a function
of its logits and its own number. So a completion does not depend on the batch that it is decoded in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pgrpo_cli.recipe.training import RolloutSection
from pgrpo_cli.seeding import derive_seed

_BLOCK = 256


@dataclass(frozen=True)
class SamplingSettings:
    """How completions are drawn. The logits are divided by `temperature`."""

    num_generations: int
    max_completion_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    greedy: bool = False
    tokens_per_batch: int = 16384


def sampling_settings(section: RolloutSection) -> SamplingSettings:
    """The settings of rollouts in training."""
    return SamplingSettings(**(section.model_dump() | {"tokens_per_batch": section.batch_budget}))


def uniforms(
    seed: int, prompt_id: str, num_generations: int, num_tokens: int, *, occurrence: int = 0
) -> torch.Tensor:
    """Uniform numbers in [0, 1) for the completions of one prompt, shape [G, T], float32 on the CPU.

    `occurrence`: how often the prompt has occurred before in the same batch, so that it gets other ones.
    """
    again = (occurrence,) if occurrence else ()
    generator = torch.Generator().manual_seed(derive_seed(seed, "sampling", prompt_id, *again))
    return torch.rand(num_generations, num_tokens, generator=generator)


def next_tokens(
    logits_N_V: torch.Tensor, uniform_N: torch.Tensor, settings: SamplingSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """The next token of every row [N] and its log-probability [N]. If greedy it is the likeliest token."""
    if settings.greedy:
        logprobs_N_V = torch.log_softmax(logits_N_V.float() / settings.temperature, dim=-1)
        best = logprobs_N_V.max(dim=-1)
        return best.indices, best.values
    return sample_tokens(
        logits_N_V, uniform_N, temperature=settings.temperature, top_p=settings.top_p, top_k=settings.top_k
    )


def sample_tokens(
    logits_N_V: torch.Tensor,
    uniform_N: torch.Tensor,
    *,
    temperature: float,
    top_p: float = 1.0,
    top_k: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample one token per row by inverting the cumulative distribution at `uniform_N`.

    Returns the tokens [N] and their log-probabilities [N] (float32) under softmax(logits / temperature) over
    the whole vocabulary, as TRL records them. Top-p and top-k restrict which tokens are drawn; they do not
    change the log-probabilities.
    """
    scaled_N_V = logits_N_V.float()
    if temperature != 1.0:
        scaled_N_V = scaled_N_V / temperature
    max_N_1 = scaled_N_V.amax(dim=-1, keepdim=True)
    weights_N_V = torch.exp(scaled_N_V - max_N_1)
    log_total_N = torch.log(weights_N_V.sum(dim=-1)) + max_N_1.squeeze(-1)
    if top_k or top_p < 1.0:
        weights_N_V = _truncate(weights_N_V, top_p=top_p, top_k=top_k)
    tokens_N = _invert_cdf(weights_N_V, uniform_N.to(logits_N_V.device))
    chosen_N = scaled_N_V.gather(-1, tokens_N.unsqueeze(-1)).squeeze(-1)
    return tokens_N, chosen_N - log_total_N


def _truncate(weights_N_V: torch.Tensor, *, top_p: float, top_k: int) -> torch.Tensor:
    """Set the weights to 0 outside of the top k tokens and of the smallest set with a mass of `top_p`."""
    sorted_N_V, order_N_V = weights_N_V.sort(dim=-1, descending=True)
    if top_k:
        sorted_N_V[:, top_k:] = 0
    if top_p < 1.0:
        mass_before_N_V = sorted_N_V.cumsum(dim=-1) - sorted_N_V
        sorted_N_V = sorted_N_V.where(mass_before_N_V < top_p * sorted_N_V.sum(dim=-1, keepdim=True), 0)
    return torch.zeros_like(weights_N_V).scatter(-1, order_N_V, sorted_N_V)


def _invert_cdf(weights_N_V: torch.Tensor, uniform_N: torch.Tensor) -> torch.Tensor:
    """The token at which the cumulative sum of the unnormalised weights exceeds uniform · total.

    The search has two levels: first over the sums of blocks [N, B], then inside the block that was found
    [N, S]. This is faster than one cumulative sum over the vocabulary, and its rounding error is smaller.
    """
    num_rows, vocabulary = weights_N_V.shape
    padding = -vocabulary % _BLOCK
    blocks_N_B_S = torch.nn.functional.pad(weights_N_V, (0, padding)).view(num_rows, -1, _BLOCK)
    block_edges_N_B = blocks_N_B_S.sum(dim=-1, dtype=torch.float64).cumsum(dim=-1)
    target_N_1 = (uniform_N.double() * block_edges_N_B[:, -1]).unsqueeze(-1)
    block_N_1 = torch.searchsorted(block_edges_N_B, target_N_1, right=True).clamp_(
        max=block_edges_N_B.shape[1] - 1
    )
    before_N_1 = block_edges_N_B.gather(1, block_N_1) - blocks_N_B_S.sum(dim=-1, dtype=torch.float64).gather(
        1, block_N_1
    )
    inside_N_S = blocks_N_B_S[torch.arange(num_rows, device=block_N_1.device), block_N_1.squeeze(-1)].double()
    inside_edges_N_S = inside_N_S.cumsum(dim=-1)
    offset_N_1 = torch.searchsorted(inside_edges_N_S, target_N_1 - before_N_1, right=True)
    # By rounding, the target may lie at the very end of the block. Then the last token with a positive weight
    # is taken, since a token of weight 0 must never be drawn.
    last_N_1 = (inside_N_S > 0).int().mul(torch.arange(1, _BLOCK + 1, device=inside_N_S.device)).amax(
        -1, keepdim=True
    ) - 1
    return (block_N_1 * _BLOCK + torch.minimum(offset_N_1, last_N_1)).squeeze(-1)
