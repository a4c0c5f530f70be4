"""Sampling completions: one prefill a prompt, all completions of a batch of prompts decoded together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.rewards.base import Completion

from .batching import Batch, cut_batches, rollout_budget
from .oom import TokenBudget, in_pieces
from .padded import decode_padded
from .policy import Policy
from .rollout_weights import rollout_weights
from .sampling import SamplingSettings, next_tokens, uniforms
from .shared_prefix import SharedPrefixCache, attending_to_shared_prefix


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
        return [_completion(p, text) for p, text in zip(prompts_N, self.texts_N, strict=True)]


def _completion(prompt: PreparedPrompt, text: str) -> Completion:
    return Completion(prompt.prompt_id, prompt.preference_group, prompt.prompt, text, prompt.columns)


OnBatch = Callable[[Sequence[int], Sequence[Completion]], None]
"""Called when a batch is decoded, with the places of its completions among all N, and the completions."""


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
    """Sample G completions for each prompt. A completion depends on (weights, prompt, seed), not on its
    batch. `on_batch` sees each batch before the next one is decoded.

    `budget`: cached tokens a batch, lowered where they do not fit; None starts from the settings'. Raises
    TrainingError where the device's memory does not hold a single completion.
    """
    G, T = settings.num_generations, settings.max_completion_tokens
    pad_token_id = policy.tokenizer.pad_token_id
    ids_N_T = torch.full((len(prompts) * G, T), pad_token_id)
    logprobs_N_T = torch.zeros(ids_N_T.shape)
    lengths_N = torch.zeros(len(ids_N_T), dtype=torch.long)
    finished_N = torch.zeros(len(ids_N_T), dtype=torch.bool)
    texts_N = [""] * len(ids_N_T)
    decode = _decode if policy.paths.shared_prefix else decode_padded

    def decode_batch(batch: Batch) -> torch.Tensor:
        uniform_N_T = torch.cat(
            [uniforms(seed, prompts[i].prompt_id, G, T)[batch.generations] for i in batch.prompts]
        )
        rows = torch.tensor([i * G + g for i in batch.prompts for g in batch.generations])
        drawing = replace(settings, num_generations=len(batch.generations))
        ids, logprobs = decode(policy, [prompts[i] for i in batch.prompts], drawing, uniform_N_T)
        ids_N_T[rows, : ids.shape[1]], logprobs_N_T[rows, : ids.shape[1]] = ids, logprobs
        return rows

    was_training = policy.model.training
    policy.model.eval()
    with rollout_weights(policy):
        cut = partial(cut_batches, prompts, settings)
        for rows in in_pieces(range(len(ids_N_T)), cut, decode_batch, budget or rollout_budget(settings)):
            lengths_N[rows], finished_N[rows] = _completed(ids_N_T[rows], policy.stop_token_ids)
            for n in rows.tolist():
                ids_T = ids_N_T[n, : lengths_N[n]].tolist()
                texts_N[n] = policy.tokenizer.decode(ids_T, skip_special_tokens=True)
            on_batch(rows.tolist(), [_completion(prompts[n // G], texts_N[n]) for n in rows.tolist()])
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
    """Length of each completion, its first stop token included, and whether it has one."""
    stops_N_T = torch.isin(ids_N_T, torch.tensor(stop_token_ids))
    finished_N = stops_N_T.any(dim=1)
    first_N = stops_N_T.int().argmax(dim=1)
    return torch.where(finished_N, first_N + 1, ids_N_T.shape[1]), finished_N


def _decode(
    policy: Policy, prompts: Sequence[PreparedPrompt], settings: SamplingSettings, uniform_N_T: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and log-probabilities [N, T] of one batch; what follows a stop token is meaningless."""
    G, T = settings.num_generations, settings.max_completion_tokens
    N = len(prompts) * G
    stop_ids = torch.tensor(policy.stop_token_ids)
    ids_N_T = torch.zeros(N, T, dtype=torch.long)
    logprobs_N_T = torch.zeros(N, T)
    finished_N = torch.zeros(N, dtype=torch.bool)
    alive_rows = torch.arange(N)

    logits_P_V, cache = prefill(policy, prompts, num_generations=G, capacity=T)
    logits_N_V = logits_P_V.repeat_interleave(G, dim=0)
    for t in range(T):
        tokens_N, token_logprobs_N = next_tokens(logits_N_V, uniform_N_T[alive_rows, t], settings)
        ids_N_T[alive_rows, t], logprobs_N_T[alive_rows, t] = tokens_N.cpu(), token_logprobs_N.cpu()
        finished_N[alive_rows] |= torch.isin(ids_N_T[alive_rows, t], stop_ids)
        if t + 1 == T or finished_N.all():
            break
        going_on_P = ~finished_N[alive_rows].view(-1, G).all(dim=1)
        if not going_on_P.all():
            rows = going_on_P.repeat_interleave(G)
            cache.keep_prompts(going_on_P.to(policy.device))
            alive_rows, tokens_N = alive_rows[rows], tokens_N[rows.to(tokens_N.device)]
        logits_N_V = decode_step(policy, tokens_N, cache)
    return ids_N_T, logprobs_N_T


def prefill(
    policy: Policy, prompts: Sequence[PreparedPrompt], *, num_generations: int, capacity: int
) -> tuple[torch.Tensor, SharedPrefixCache]:
    """Run P prompts once: logits after each prompt's last token [P, V], and the cache that its completions
    share.

    Prompts are padded on the right: under the causal mask no prompt token sees the padding, so it needs no
    mask.
    """
    from transformers import DynamicCache

    lengths_P = torch.tensor([len(prompt.input_ids) for prompt in prompts], device=policy.device)
    ids_P_T = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(prompt.input_ids) for prompt in prompts],
        batch_first=True,
        padding_value=policy.tokenizer.pad_token_id,
    ).to(policy.device)
    mask_P_T = torch.arange(ids_P_T.shape[1], device=policy.device) < lengths_P.unsqueeze(1)
    cache = DynamicCache()
    hidden_P_T_D = policy.decoder(input_ids=ids_P_T, past_key_values=cache, use_cache=True).last_hidden_state
    last_P_D = hidden_P_T_D[torch.arange(len(prompts), device=policy.device), lengths_P - 1]
    shared = SharedPrefixCache(cache, mask_P_T, num_generations=num_generations, capacity=capacity)
    return policy.logits(last_P_D), shared


def decode_step(policy: Policy, tokens_N: torch.Tensor, cache: SharedPrefixCache) -> torch.Tensor:
    """Feed one token a row and return the logits for the next one [N, V]."""
    # A mask with four dimensions keeps transformers from building its own; the cache knows what is visible.
    mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=policy.device)
    with attending_to_shared_prefix(policy.config):
        hidden_N_1_D = policy.decoder(
            input_ids=tokens_N.to(policy.device).unsqueeze(1),
            position_ids=cache.positions_N_1(),
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            shared_prefix=cache,
        ).last_hidden_state
    cache.advance()
    return policy.logits(hidden_N_1_D[:, 0])
