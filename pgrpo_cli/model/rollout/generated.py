"""Sampling without a shared prefix: one row per completion, decoded by transformers' `generate`.

This is the path for architectures that cannot share a prefix, since recurrent and linear-attention layers
have no keys. Every row holds a copy of its prompt, padded on the left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from pgrpo_cli.data.records import PreparedPrompt

from ..policy import Policy
from .sampling import SamplingSettings, next_tokens


def decode_padded(
    policy: Policy,
    prompts: Sequence[PreparedPrompt],
    settings: SamplingSettings,
    uniform_N_T: torch.Tensor,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and log-probabilities [N, T] of G completions per prompt.

    Entries after a stop token are meaningless. There are fewer than T columns if all completions end early.
    `options` are passed to `generate`, such as a `streamer` or `stopping_criteria`.
    """
    rows = [prompt.input_ids for prompt in prompts for _ in range(settings.num_generations)]
    ids_N_T, mask_N_T = _left_padded(rows, policy)
    sampler = _Sampler(settings, uniform_N_T)
    with _own_settings_only(policy.model.get_base_model()) as model:
        sequences_N_T = model.generate(
            input_ids=ids_N_T,
            attention_mask=mask_N_T.long(),
            max_new_tokens=settings.max_completion_tokens,
            do_sample=False,
            num_beams=1,
            logits_processor=[sampler],
            eos_token_id=list(policy.stop_token_ids),
            pad_token_id=policy.tokenizer.pad_token_id,
            **options,
        )
    new_N_T = sequences_N_T[:, ids_N_T.shape[1] :].cpu()
    return new_N_T, torch.stack(sampler.logprobs, dim=1)[:, : new_N_T.shape[1]]


def decode_by_length(
    policy: Policy,
    prompts: Sequence[PreparedPrompt],
    settings: SamplingSettings,
    uniform_N_T: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same for models in which padding on the left changes what follows (MiniMax, RecurrentGemma): only
    prompts of equal length are decoded together.
    """
    G, lengths = settings.num_generations, [len(prompt.input_ids) for prompt in prompts]
    ids_N_T = torch.full(uniform_N_T.shape, policy.tokenizer.pad_token_id)
    logprobs_N_T = torch.zeros(ids_N_T.shape)
    for length in sorted(set(lengths)):
        chosen = [p for p, own in enumerate(lengths) if own == length]
        rows = torch.tensor([p * G + g for p in chosen for g in range(G)])
        ids, logprobs = decode_padded(policy, [prompts[p] for p in chosen], settings, uniform_N_T[rows])
        ids_N_T[rows, : ids.shape[1]], logprobs_N_T[rows, : ids.shape[1]] = ids, logprobs
    return ids_N_T, logprobs_N_T


@contextmanager
def _own_settings_only(model: Any) -> Iterator[Any]:
    """Within the block the model has no generation config of its own, with which `generate` would complete
    the settings: a repetition penalty or a least length there would change what is sampled from.
    """
    from transformers import GenerationConfig

    kept, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield model
    finally:
        model.generation_config = kept


class _Sampler:
    """A logits processor that chooses the token itself, so that `generate` uses our uniform numbers.

    It sets all other logits to -inf, and `generate` then picks the chosen token greedily.
    """

    def __init__(self, settings: SamplingSettings, uniform_N_T: torch.Tensor) -> None:
        self._settings, self._uniform_N_T = settings, uniform_N_T
        self.logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step = len(self.logprobs)
        tokens_N, logprobs_N = next_tokens(scores, self._uniform_N_T[:, step], self._settings)
        self.logprobs.append(logprobs_N.cpu())
        return torch.full_like(scores, float("-inf")).scatter_(-1, tokens_N.unsqueeze(-1), 0.0)


def _left_padded(rows: Sequence[Sequence[int]], policy: Policy) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [N, T] on the policy's device and a boolean mask, True on tokens; padding is on the left."""
    width = max(len(row) for row in rows)
    ids_N_T = torch.full((len(rows), width), policy.tokenizer.pad_token_id)
    mask_N_T = torch.zeros((len(rows), width), dtype=torch.bool)
    for n, row in enumerate(rows):
        ids_N_T[n, width - len(row) :] = torch.tensor(row)
        mask_N_T[n, width - len(row) :] = True
    return ids_N_T.to(policy.device), mask_N_T.to(policy.device)
