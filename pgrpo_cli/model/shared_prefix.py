"""Decoding G completions of a prompt over one copy of the prompt's keys and values.

`SharedPrefixCache` stands in for transformers' cache during decoding: the prompt's keys and values are
stored once a
prompt [P, H, Tp, D], those of the completions once a completion [N, H, Tc, D]. `shared_prefix_attention` is
the
attention function, registered with transformers, that reads both. N = P·G rows, prompt-major; H key-value
heads,
each serving R query heads; D features a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

ATTENTION_NAME = "pgrpo_shared_prefix"


class SharedPrefixCache:
    """Keys and values of P prompts and of the N completions that are being decoded from them."""

    def __init__(
        self, prefix: Any, prefix_mask_P_T: torch.Tensor, *, num_generations: int, capacity: int
    ) -> None:
        """`prefix`: the cache that a prefill filled; `prefix_mask_P_T`: True on prompt tokens, False on
        padding.
        """
        self.prefix_keys = [layer.keys for layer in prefix.layers]
        self.prefix_values = [layer.values for layer in prefix.layers]
        self.prefix_mask_P_T = prefix_mask_P_T
        self.prompt_lengths_P = prefix_mask_P_T.sum(dim=1)
        self.num_generations = num_generations
        self.length = 0
        num_rows = prefix_mask_P_T.shape[0] * num_generations
        self.keys = [_room(keys, num_rows, capacity) for keys in self.prefix_keys]
        self.values = [_room(values, num_rows, capacity) for values in self.prefix_values]

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store one token's keys and values [N, H, 1, D]; return those of all completion tokens so far."""
        self.keys[layer_idx][:, :, self.length] = keys[:, :, 0]
        self.values[layer_idx][:, :, self.length] = values[:, :, 0]
        end = self.length + 1
        return self.keys[layer_idx][:, :, :end], self.values[layer_idx][:, :, :end]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Completion tokens stored, as transformers asks for it."""
        return self.length

    def advance(self) -> None:
        """Count the token that every layer has stored."""
        self.length += 1

    def positions_N_1(self) -> torch.Tensor:
        """Position ids of the next token of every row: prompts differ in length, so rows do."""
        return (self.prompt_lengths_P + self.length).repeat_interleave(self.num_generations).unsqueeze(1)

    def keep_prompts(self, kept_P: torch.Tensor) -> None:
        """Drop the prompts whose completions are all finished. `kept_P`: boolean, True = goes on."""
        prompts = kept_P.nonzero().squeeze(1)
        rows = kept_P.repeat_interleave(self.num_generations).nonzero().squeeze(1)
        self.prefix_keys = [keys[prompts] for keys in self.prefix_keys]
        self.prefix_values = [values[prompts] for values in self.prefix_values]
        self.prefix_mask_P_T = self.prefix_mask_P_T[prompts]
        self.prompt_lengths_P = self.prompt_lengths_P[prompts]
        self.keys = [keys[rows] for keys in self.keys]
        self.values = [values[rows] for values in self.values]


def _room(like: torch.Tensor, num_rows: int, capacity: int) -> torch.Tensor:
    return like.new_empty(num_rows, like.shape[1], capacity, like.shape[3])


def shared_prefix_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    *,
    shared_prefix: SharedPrefixCache,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """One query token a row against its prompt's keys and its own completion's keys.

    query [N, H·R, 1, D]; key, value [N, H, Tc, D], the completions' own; returns [N, 1, H·R, D]. Arguments as
    transformers passes them to every attention function, and the cache by keyword.
    """
    cache, layer = shared_prefix, module.layer_idx
    prefix_keys, prefix_values = cache.prefix_keys[layer], cache.prefix_values[layer]
    num_prompts, heads, prefix_length, width = prefix_keys.shape
    G, R = cache.num_generations, query.shape[1] // heads
    scaling = width**-0.5 if scaling is None else scaling
    precise = torch.promote_types(query.dtype, torch.float32)

    # [P, H, G·R, D]: all queries that share a prompt and a key-value head form one matrix.
    query_P = (
        query.view(num_prompts, G, heads, R, width).transpose(1, 2).reshape(num_prompts, heads, G * R, width)
    )
    prefix_scores = query_P @ prefix_keys.transpose(-1, -2)
    prefix_scores = prefix_scores.view(num_prompts, heads, G, R, prefix_length).transpose(1, 2).to(precise)
    own_scores = query.view(-1, heads, R, width) @ key.transpose(-1, -2)
    own_scores = own_scores.view(num_prompts, G, heads, R, -1).to(precise)
    scores = torch.cat([prefix_scores, own_scores], dim=-1) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    visible = _visible(cache, key.shape[2], sliding_window)
    scores = scores.masked_fill(~visible[:, None, None, None, :], float("-inf"))

    weights = torch.softmax(scores, dim=-1).to(query.dtype)
    prefix_weights = (
        weights[..., :prefix_length].transpose(1, 2).reshape(num_prompts, heads, G * R, prefix_length)
    )
    prefix_part = (prefix_weights @ prefix_values).view(num_prompts, heads, G, R, width).transpose(1, 2)
    own_part = weights[..., prefix_length:].reshape(-1, heads, R, key.shape[2]) @ value
    output = prefix_part.reshape(-1, heads, R, width) + own_part
    return output.reshape(-1, 1, heads * R, width), None


def _visible(cache: SharedPrefixCache, own_length: int, sliding_window: int | None) -> torch.Tensor:
    """Which keys the newest token sees, [P, Tp + Tc]: no padding, and nothing beyond the sliding window."""
    own = cache.prefix_mask_P_T.new_ones(len(cache.prefix_mask_P_T), own_length)
    visible = torch.cat([cache.prefix_mask_P_T, own], dim=1)
    if sliding_window is None:
        return visible
    prefix_positions = torch.arange(cache.prefix_mask_P_T.shape[1], device=visible.device)
    own_positions = cache.prompt_lengths_P[:, None] + torch.arange(own_length, device=visible.device)
    positions = torch.cat([prefix_positions.expand(len(visible), -1), own_positions], dim=1)
    newest = cache.prompt_lengths_P[:, None] + own_length - 1
    return visible & (newest - positions < sliding_window)


@contextmanager
def attending_to_shared_prefix(config: Any) -> Iterator[None]:
    """Within the block, models with this (text) config use `shared_prefix_attention`."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION_NAME, shared_prefix_attention)
    before = config._attn_implementation
    config._attn_implementation = ATTENTION_NAME
    try:
        yield
    finally:
        config._attn_implementation = before
