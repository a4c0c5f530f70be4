"""Sampling completions: each prompt is prefilled once, and a batch's completions are decoded together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch

from pgrpo_cli.data.records import PreparedPrompt, completion_of
from pgrpo_cli.rewards.base import Completion

from ..oom import TokenBudget, in_pieces
from ..policy import Policy
from ..rollouts import Rollouts
from .batching import Batch, cut_batches, rollout_budget
from .cpu_weights import rollout_weights
from .decode import decode_on
from .generated import decode_by_length, decode_padded
from .sampling import SamplingSettings, uniforms

OnBatch = Callable[[Sequence[int], Sequence[Completion]], None]
"""Called when a batch has been decoded, with the indices of its completions (0 to N - 1) and the completions
themselves.
"""


@torch.no_grad()
def sample(
    policy: Policy,
    prompts: Sequence[PreparedPrompt],
    settings: SamplingSettings,
    *,
    seed: int,
    budget: TokenBudget | None = None,
    on_batch: OnBatch = lambda rows, completions: None,
) -> Rollouts:
    """Sample G completions for each prompt. A completion depends on the weights, the prompt, the seed, and on
    how often the prompt occurs before in `prompts`; not on the other completions of its batch. `on_batch` is
    called before the next batch is decoded.

    `budget`: the number of cached tokens per batch, which is lowered if they do not fit; None: that of
    `settings`. Raises TrainingError if not even one completion fits into the memory of the device.
    """
    G, T = settings.num_generations, settings.max_completion_tokens
    pad_token_id = policy.tokenizer.pad_token_id
    ids_P = [prompt.prompt_id for prompt in prompts]
    # A step may have a prompt twice, where a preference group or the data have few of them.
    occurrence_P = [ids_P[:i].count(prompt_id) for i, prompt_id in enumerate(ids_P)]
    ids_N_T = torch.full((len(prompts) * G, T), pad_token_id)
    logprobs_N_T = torch.zeros(ids_N_T.shape)
    lengths_N = torch.zeros(len(ids_N_T), dtype=torch.long)
    finished_N = torch.zeros(len(ids_N_T), dtype=torch.bool)
    texts_N = [""] * len(ids_N_T)
    plainly = decode_padded if policy.paths.left_padding else decode_by_length
    decode = decode_on(policy) if policy.paths.shared_prefix else plainly

    def decode_batch(batch: Batch) -> torch.Tensor:
        uniform_N_T = torch.cat(
            [
                uniforms(seed, prompts[i].prompt_id, G, T, occurrence=occurrence_P[i])[batch.generations]
                for i in batch.prompts
            ]
        )
        rows = torch.tensor([i * G + g for i in batch.prompts for g in batch.generations])
        drawing = replace(settings, num_generations=len(batch.generations))
        ids, logprobs = decode(policy, [prompts[i] for i in batch.prompts], drawing, uniform_N_T)
        ids_N_T[rows, : ids.shape[1]], logprobs_N_T[rows, : ids.shape[1]] = ids, logprobs
        return rows

    was_training = policy.model.training
    policy.model.eval()
    with rollout_weights(policy, num_rows=len(ids_N_T)):
        cut, budget = partial(cut_batches, prompts, settings), budget or rollout_budget(settings)
        for rows in in_pieces(range(len(ids_N_T)), cut, decode_batch, budget):
            lengths_N[rows], finished_N[rows] = _completed(ids_N_T[rows], policy.stop_token_ids)
            for n in rows.tolist():
                ids_T = ids_N_T[n, : lengths_N[n]].tolist()
                texts_N[n] = policy.tokenizer.decode(ids_T, skip_special_tokens=True)
            on_batch(rows.tolist(), [completion_of(prompts[n // G], texts_N[n]) for n in rows.tolist()])
    policy.model.train(was_training)

    mask_N_T = (torch.arange(T) < lengths_N.unsqueeze(1))[:, : int(lengths_N.max())]
    width = mask_N_T.shape[1]
    return Rollouts(
        prompts=tuple(prompts),
        num_generations=G,
        completion_ids_N_T=ids_N_T[:, :width].masked_fill(~mask_N_T, pad_token_id),
        completion_mask_N_T=mask_N_T,
        sampling_logprobs_N_T=logprobs_N_T[:, :width].masked_fill(~mask_N_T, 0.0),
        finished_N=finished_N,
        texts_N=tuple(texts_N),
    )


def _completed(ids_N_T: torch.Tensor, stop_token_ids: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The length of each completion up to and including its first stop token, and whether it has one."""
    stops_N_T = torch.isin(ids_N_T, torch.tensor(stop_token_ids))
    finished_N = stops_N_T.any(dim=1)
    first_N = stops_N_T.int().argmax(dim=1)
    return torch.where(finished_N, first_N + 1, ids_N_T.shape[1]), finished_N
