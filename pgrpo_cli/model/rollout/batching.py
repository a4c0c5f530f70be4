"""Groups completions into batches that are decoded together."""

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
    """Indices of prompts, and the completions (0 to G - 1) that are decoded for each of them."""

    prompts: Sequence[int]
    generations: Sequence[int]


def rollout_budget(
    settings: SamplingSettings, on_note: Callable[[str], None] = lambda text: None
) -> TokenBudget:
    """The number of cached tokens that may be decoded together; `on_note` is called when it is lowered."""
    return TokenBudget(settings.tokens_per_batch, "rollout batches", _REMEDY, on_note)


def batches_by_tokens(prompts: Sequence[PreparedPrompt], settings: SamplingSettings) -> Iterator[list[int]]:
    """Yield batches of prompts, as indices: longest first, with at most `tokens_per_batch` cached tokens per
    batch. A prompt that exceeds this limit together with its completions gets a batch of its own.

    Sorting by length keeps padding small, since all prompts of a batch are padded to the longest one.
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
    """Batches of the given completions (prompt-major indices), with at most `tokens` cached tokens each.

    A prompt that exceeds the budget by itself is normally decoded in one batch. Its completions are spread
    over several batches only after the budget has been lowered, that is when memory has run out.
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
