"""Sampling completions: one prefill a prompt, all completions of a batch of prompts decoded together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.rewards.base import Completion

from .decode import decode_on
from .lean import rollout_weights
from .padded import decode_padded
from .policy import Policy
from .sampling import SamplingSettings, uniforms


@dataclass(frozen=True)
class Rollouts:
    """Completions of P prompts, G each, prompt-major (N = P·G), on the CPU.

    `completion_ids_N_T` is padded on the right; `completion_mask_N_T` is True on completion tokens, the
    stop token included; `sampling_logprobs_N_T` are those of the policy that sampled, 0 on padding;
    `finished_N` is True where the completion ended by itself rather than at the limit.
    """

    prompts: tuple[PreparedPrompt, ...]
    num_generations: int
    completion_ids_N_T: torch.Tensor
    completion_mask_N_T: torch.Tensor
    sampling_logprobs_N_T: torch.Tensor
    finished_N: torch.Tensor
    texts_N: tuple[str, ...]

    @property
    def lengths_N(self) -> list[int]:
        """Tokens of each completion."""
        return self.completion_mask_N_T.sum(dim=1).tolist()

    @property
    def preference_groups_N(self) -> list[str]:
        """The preference group of each completion."""
        return [p.preference_group for p in self.prompts for _ in range(self.num_generations)]

    def completions(self) -> list[Completion]:
        """What the rewards see, a completion each."""
        prompts_N = [p for p in self.prompts for _ in range(self.num_generations)]
        return [
            Completion(p.prompt_id, p.preference_group, p.prompt, text, p.columns)
            for p, text in zip(prompts_N, self.texts_N, strict=True)
        ]


@torch.no_grad()
def sample(
    policy: Policy, prompts: Sequence[PreparedPrompt], settings: SamplingSettings, *, seed: int
) -> Rollouts:
    """Sample G completions for each prompt. A completion depends on (weights, prompt, seed), not on its
    batch.
    """
    G, T = settings.num_generations, settings.max_completion_tokens
    pad_token_id = policy.tokenizer.pad_token_id
    ids_N_T = torch.full((len(prompts) * G, T), pad_token_id)
    logprobs_N_T = torch.zeros(ids_N_T.shape)
    decode = decode_on(policy) if policy.paths.shared_prefix else decode_padded
    was_training = policy.model.training
    policy.model.eval()
    with rollout_weights(policy, num_rows=len(prompts) * G):
        for batch in batches_by_tokens(prompts, settings):
            uniform_N_T = torch.cat([uniforms(seed, prompts[i].prompt_id, G, T) for i in batch])
            rows = torch.tensor([i * G + g for i in batch for g in range(G)])
            ids, logprobs = decode(policy, [prompts[i] for i in batch], settings, uniform_N_T)
            ids_N_T[rows, : ids.shape[1]], logprobs_N_T[rows, : ids.shape[1]] = ids, logprobs
    policy.model.train(was_training)

    lengths_N, finished_N = _completed(ids_N_T, policy.stop_token_ids)
    mask_N_T = (torch.arange(T) < lengths_N.unsqueeze(1))[:, : int(lengths_N.max())]
    width = mask_N_T.shape[1]
    texts = [
        policy.tokenizer.decode(ids[:length], skip_special_tokens=True)
        for ids, length in zip(ids_N_T.tolist(), lengths_N.tolist(), strict=True)
    ]
    return Rollouts(
        prompts=tuple(prompts),
        num_generations=G,
        completion_ids_N_T=ids_N_T[:, :width].masked_fill(~mask_N_T, pad_token_id),
        completion_mask_N_T=mask_N_T,
        sampling_logprobs_N_T=logprobs_N_T[:, :width].masked_fill(~mask_N_T, 0.0),
        finished_N=finished_N,
        texts_N=tuple(texts),
    )


def _completed(ids_N_T: torch.Tensor, stop_token_ids: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Length of each completion, its first stop token included, and whether it has one."""
    stops_N_T = torch.isin(ids_N_T, torch.tensor(stop_token_ids))
    finished_N = stops_N_T.any(dim=1)
    first_N = stops_N_T.int().argmax(dim=1)
    return torch.where(finished_N, first_N + 1, ids_N_T.shape[1]), finished_N


def batches_by_tokens(prompts: Sequence[PreparedPrompt], settings: SamplingSettings) -> Iterator[list[int]]:
    """Indices of prompts to decode together: longest first, at most `tokens_per_batch` cached tokens a
    batch.
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
