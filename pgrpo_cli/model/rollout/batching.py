"""Which completions are decoded together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from pgrpo_cli.data.records import PreparedPrompt

from ..oom import Piece, TokenBudget
from .sampling import SamplingSettings

_REMEDY = (
    "Lower data.max_prompt_tokens or rollout.max_completion_tokens, quantize the model, or use a smaller "
    "one; `pgrpo plan` says what fits."
)


@dataclass(frozen=True)
class Batch:
    """Prompts, as indices, and which of the completions of each (0 to G - 1) are decoded."""

    prompts: Sequence[int]
    generations: Sequence[int]


def rollout_budget(
    settings: SamplingSettings, tell: Callable[[str], None] = lambda text: None
) -> TokenBudget:
    """Cached tokens that may be decoded together; `tell` hears when memory forces it down."""
    return TokenBudget(settings.tokens_per_batch, "rollout batches", _REMEDY, tell)


def batches_by_tokens(prompts: Sequence[PreparedPrompt], settings: SamplingSettings) -> Iterator[list[int]]:
    """Indices of prompts to decode together: longest first, at most `tokens_per_batch` cached tokens a
    batch. A prompt that exceeds them with its completions is a batch of its own.
    """
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i].input_ids), i))
    batch: list[int] = []
    for i in order:
        longest = len(prompts[batch[0] if batch else i].input_ids)
        tokens = (len(batch) + 1) * (longest + settings.num_generations * settings.max_completion_tokens)
        if batch and tokens > settings.tokens_per_batch:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def cut_batches(
    prompts: Sequence[PreparedPrompt], settings: SamplingSettings, completions: Sequence[int], tokens: int
) -> Iterator[Piece[Batch]]:
    """Batches of some of the completions (prompt-major indices), of at most `tokens` cached tokens each.

    Under a budget that was lowered, a prompt that exceeds it has its completions decoded in several batches.
    """
    G, T = settings.num_generations, settings.max_completion_tokens
    generations_P: dict[int, list[int]] = {}
    for n in completions:
        generations_P.setdefault(n // G, []).append(n % G)
    lowered = tokens < settings.tokens_per_batch
    together = [
        i
        for i, generations in generations_P.items()
        if len(generations) == G and not (lowered and len(prompts[i].input_ids) + G * T > tokens)
    ]
    within = replace(settings, tokens_per_batch=tokens)
    for batch in batches_by_tokens([prompts[i] for i in together], within):
        yield _piece(Batch([together[j] for j in batch], range(G)), prompts, settings)
    for i in sorted(generations_P.keys() - set(together)):
        room = max(1, (tokens - len(prompts[i].input_ids)) // T)
        for start in range(0, len(generations_P[i]), room):
            yield _piece(Batch([i], generations_P[i][start : start + room]), prompts, settings)


def _piece(batch: Batch, prompts: Sequence[PreparedPrompt], settings: SamplingSettings) -> Piece[Batch]:
    longest = max(len(prompts[i].input_ids) for i in batch.prompts)
    tokens = len(batch.prompts) * (longest + len(batch.generations) * settings.max_completion_tokens)
    rows = [i * settings.num_generations + g for i in batch.prompts for g in batch.generations]
    return Piece(batch, rows, tokens)
