"""Decoding G completions of a prompt over one copy of the prompt's keys and values.

`SharedPrefixCache` replaces transformers' cache during decoding. It stores the keys and values of a prompt
once [P, H, Tp, D], and those of completions once per row [M, H, Tc, D]. `shared_prefix_attention` is the
attention function, registered with transformers, that reads both. Each of the H key-value heads serves R
query heads; a head has D features.

The M rows lie in a grid [P, G] of prompts and their completions. At first the grid is full and needs no
index. Once single rows have been dropped, `places_M` gives the place of each row in the grid. Scores have the
shape [A, B, H, R, T] with A·B = M: A, B = P, G if the grid is full, and M, 1 otherwise.

A step reads and writes the same addresses at every token, so that it can be captured in a CUDA graph. The
number of stored tokens is a tensor on the device, and columns that are not stored yet are masked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from transformers import DynamicCache

from .buffers import Buffers
from .rounding import EXACT, KeptRows, Rounding

ATTENTION_NAME = "pgrpo_shared_prefix"


class PrefillCache(DynamicCache):
    """The cache of a prefill. It writes the keys and values of P prompts into the buffers of decoding, layer
    by layer.

    Copying them from transformers' own cache afterwards would need their memory twice. `prefix_length` is the
    size of the T axis of the buffers [P, H, T, D]; their end is filled with zeros.
    """

    def __init__(self, prefix_length: int, buffers: Buffers) -> None:
        super().__init__()
        self.prefix_length, self.buffers = prefix_length, buffers
        self.prefix_keys: list[torch.Tensor] = []
        self.prefix_values: list[torch.Tensor] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the keys and values of a layer, and return them unchanged."""
        self.prefix_keys.append(self.widened(f"prefix_keys.{layer_idx}", key_states, axis=2))
        self.prefix_values.append(self.widened(f"prefix_values.{layer_idx}", value_states, axis=2))
        return key_states, value_states

    def widened(self, name: str, tensor: torch.Tensor, *, axis: int) -> torch.Tensor:
        """A copy in the buffer of that name, padded with zeros to `prefix_length` along `axis`."""
        tokens = tensor.shape[axis]
        shape = (*tensor.shape[:axis], self.prefix_length, *tensor.shape[axis + 1 :])
        buffer = self.buffers.empty(name, shape, tensor)
        buffer.narrow(axis, 0, tokens).copy_(tensor)
        # The buffer may contain NaN from an earlier use. Masking gives padding a weight of 0, but 0 · NaN is
        # NaN, so the padding itself must be finite.
        buffer.narrow(axis, tokens, self.prefix_length - tokens).zero_()
        return buffer


class SharedPrefixCache:
    """Keys and values of P prompts, and of the M rows (at first P·G) that are decoded from them.

    `stored_1` is the number of completion tokens that are stored, the same for all rows. `reach` is how many
    columns of the completions' own keys a step attends to: at least one more than are stored.
    """

    def __init__(
        self,
        prefill: PrefillCache,
        prefix_mask_P_T: torch.Tensor,
        *,
        num_generations: int,
        capacity: int,
        rounding: Rounding = EXACT,
    ) -> None:
        """`prefill`: the cache after the prefill. `prefix_mask_P_T`: True on prompt tokens, False on padding.
        `capacity`: the largest number of completion tokens per row.
        """
        self.num_generations, self.capacity, self.reach = num_generations, capacity, 0
        self._exact = rounding.exact
        self._buffers = prefill.buffers
        self.num_prompts, self.prefix_length = len(prefix_mask_P_T), prefill.prefix_length
        self._bias: dict[int | None, torch.Tensor] = {}
        self.prefix_keys, self.prefix_values = prefill.prefix_keys, prefill.prefix_values
        self.keys = [self._own(f"keys.{i}", keys) for i, keys in enumerate(self.prefix_keys)]
        self.values = [self._own(f"values.{i}", values) for i, values in enumerate(self.prefix_values)]
        self.prefix_mask_P_T = prefill.widened("prefix_mask", prefix_mask_P_T, axis=1)
        self.prompt_lengths_P = self._buffers.store("prompt_lengths", prefix_mask_P_T.sum(dim=1))
        self.stored_1 = self._buffers.store("stored", self.prompt_lengths_P.new_zeros(1))
        self._set_places(list(range(self.num_prompts * num_generations)))

    def _own(self, name: str, like: torch.Tensor) -> torch.Tensor:
        shape = (self.num_prompts * self.num_generations, like.shape[1], self.capacity, like.shape[3])
        buffer = self._buffers.empty(name, shape, like)
        # With rounded shapes a step reads columns that are not stored yet. They are masked, but must be
        # finite: 0 · NaN is NaN.
        return buffer if self._exact else buffer.zero_()

    def _set_places(self, places_M: list[int]) -> None:
        """Set the places of the rows in the grid, and the tensors that depend on them."""
        G = self.num_generations
        self.places_M = places_M
        places = torch.tensor(places_M, device=self.prompt_lengths_P.device)
        self._grid_M = None if len(places_M) == self.num_prompts * G else places
        self._lengths_M = self._buffers.store("row_lengths", self.prompt_lengths_P[places // G])

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the keys and values of one token per row [M, H, 1, D]; return the first `reach` columns."""
        own_keys, own_values = self.keys[layer_idx], self.values[layer_idx]
        own_keys.index_copy_(2, self.stored_1, keys)
        own_values.index_copy_(2, self.stored_1, values)
        return own_keys[:, :, : self.reach], own_values[:, :, : self.reach]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The number of stored completion tokens, for transformers; with rounded shapes an upper bound."""
        return self.reach - 1

    def begin(self, reach: int) -> None:
        """Prepare a step that attends to the first `reach` columns of the completions' own keys."""
        self.reach = reach
        # A step stores one more token, so the masks of the step before no longer hold.
        self._bias.clear()

    def advance(self) -> None:
        """Count the token that all layers have stored, after the last layer."""
        self.stored_1 += 1

    def positions_M_1(self) -> torch.Tensor:
        """Position ids of the next token of every row. They differ, since prompts differ in length."""
        return (self._lengths_M + self.stored_1).unsqueeze(1)

    def keep(self, kept: KeptRows, stored: int) -> None:
        """Drop all rows and prompts but these. `stored`: the number of completion tokens that are stored."""
        G = self.num_generations
        index = {p: i for i, p in enumerate(kept.prompts)}
        full = len(kept.rows) == len(kept.prompts) * G
        places_M = [self.places_M[row] for row in kept.rows]
        device = self.prompt_lengths_P.device
        if kept.prompts != list(range(self.num_prompts)):
            prompts = torch.tensor(kept.prompts, device=device)
            self._replace("prefix_keys", self.prefix_keys, prompts)
            self._replace("prefix_values", self.prefix_values, prompts)
            self.prefix_mask_P_T = self._buffers.store("prefix_mask", self.prefix_mask_P_T[prompts])
            self.prompt_lengths_P = self._buffers.store("prompt_lengths", self.prompt_lengths_P[prompts])
            self.num_prompts = len(kept.prompts)
        rows = torch.tensor(kept.rows, device=device)
        columns = stored if self._exact else self.capacity
        self._replace("keys", self.keys, rows, columns)
        self._replace("values", self.values, rows, columns)
        self._set_places(
            list(range(len(places_M))) if full else [index[p // G] * G + p % G for p in places_M]
        )

    def _replace(
        self, name: str, tensors: list[torch.Tensor], chosen: torch.Tensor, columns: int | None = None
    ) -> None:
        """Keep the chosen entries of the first axis, and the first `columns` tokens of each (None: all)."""
        for i, tensor in enumerate(tensors):
            # The copy is needed: the buffer below may be the memory that `tensor` is a view of.
            taken = tensor[:, :, :columns].index_select(0, chosen)
            buffer = self._buffers.empty(f"{name}.{i}", (len(chosen), *tensor.shape[1:]), tensor)
            buffer[:, :, :columns] = taken
            tensors[i] = buffer

    def bias_A_L(self, sliding_window: int | None) -> torch.Tensor:
        """The additive attention mask [A, 1, 1, 1, Tp + reach]: 0 where the newest token attends to a key,
        else -inf.

        It is the same for all layers with the same window, so it is made once per step and window.
        """
        if sliding_window not in self._bias:
            visible = self._visible_P_L(sliding_window)
            if self._grid_M is not None:
                visible = visible[self._grid_M // self.num_generations]
            precise = torch.promote_types(self.keys[0].dtype, torch.float32)
            bias = torch.zeros(visible.shape, dtype=precise, device=visible.device)
            bias.masked_fill_(~visible, float("-inf"))
            self._bias[sliding_window] = bias[:, None, None, None, :]
        return self._bias[sliding_window]

    def _visible_P_L(self, sliding_window: int | None) -> torch.Tensor:
        """The keys that the newest token attends to: stored, not padding, and inside the window."""
        lengths_P_1 = self.prompt_lengths_P.unsqueeze(1)
        own = torch.arange(self.reach, device=lengths_P_1.device)
        stored = (own <= self.stored_1).expand(self.num_prompts, -1)
        visible = torch.cat([self.prefix_mask_P_T, stored], dim=1)
        if sliding_window is None:
            return visible
        before = torch.arange(self.prefix_length, device=own.device).expand(self.num_prompts, -1)
        positions = torch.cat([before, lengths_P_1 + own], dim=1)
        return visible & (lengths_P_1 + self.stored_1 - positions < sliding_window)

    def by_prompt(self, rows: torch.Tensor) -> torch.Tensor:
        """[A, B, H, R, E] to [P, H, G·R, E]: all queries with the same prompt and head form one matrix.

        One product then serves all completions of a prompt, and reads the prompt's keys once. Places of the
        grid without a row are zeros.
        """
        heads, R, width = rows.shape[2:]
        if self._grid_M is not None:
            grid = rows.new_zeros(self.num_prompts * self.num_generations, heads, R, width)
            rows = grid.index_copy_(0, self._grid_M, rows.flatten(0, 1))
        rows = rows.reshape(self.num_prompts, self.num_generations, heads, R, width).transpose(1, 2)
        return rows.reshape(self.num_prompts, heads, -1, width)

    def by_row(self, matrices: torch.Tensor) -> torch.Tensor:
        """The inverse of `by_prompt`: [P, H, G·R, E] to [A, B, H, R, E]."""
        num_prompts, heads, _, width = matrices.shape
        grid = matrices.view(num_prompts, heads, self.num_generations, -1, width).transpose(1, 2)
        if self._grid_M is None:
            return grid
        return grid[self._grid_M // self.num_generations, self._grid_M % self.num_generations].unsqueeze(1)


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
    """Attention of one query token per row over the keys of its prompt and of its own completion.

    `query` is [M, H·R, 1, D]; `key` and `value` are the completions' own, [M, H, reach, D]; the result is
    [M, 1, H·R, D]. transformers passes the arguments as to every attention function, but for `shared_prefix`
    (see below).
    """
    cache, layer = shared_prefix, module.layer_idx
    prefix_keys, prefix_values = cache.prefix_keys[layer], cache.prefix_values[layer]
    M, heads, reach, width = key.shape
    scaling = width**-0.5 if scaling is None else scaling
    bias = cache.bias_A_L(sliding_window)
    query = query.reshape(M, heads, -1, width)
    if query.dtype == torch.float16:
        # Products that are scaled afterwards can exceed the largest number of float16.
        query, scaling = query * scaling, 1.0

    # The scores of both parts are computed apart and joined for one softmax over all keys. Its weights are
    # split again, because the values of both parts are stored apart too.
    in_grid = query.view(len(bias), -1, *query.shape[1:])
    prefix_scores = cache.by_row(cache.by_prompt(in_grid) @ prefix_keys.transpose(-1, -2))
    own_scores = (query @ key.transpose(-1, -2)).view(*in_grid.shape[:-1], reach)
    scores = torch.cat([prefix_scores, own_scores], dim=-1)
    if softcap is not None:
        scores = softcap * torch.tanh(scores.to(bias.dtype) * scaling / softcap)
        scores = scores + bias
    else:
        # One kernel instead of two; the sum has the dtype of the bias, which is at least float32.
        scores = torch.add(bias, scores, alpha=scaling)

    weights = torch.softmax(scores, dim=-1).to(query.dtype)
    prefix_weights = cache.by_prompt(weights[..., : cache.prefix_length])
    prefix_part = cache.by_row(prefix_weights @ prefix_values)
    own_part = weights[..., cache.prefix_length :].reshape(M, heads, -1, reach) @ value
    output = prefix_part + own_part.view(prefix_part.shape)
    return output.reshape(M, 1, -1, width), None


@contextmanager
def attending_to_shared_prefix(config: Any, cache: SharedPrefixCache) -> Iterator[None]:
    """Within the block, models with this (text) config use `shared_prefix_attention` with the cache. As an
    argument of the model it would not reach the attention of all: StableLM and Nemotron drop such arguments.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION_NAME, partial(shared_prefix_attention, shared_prefix=cache))
    before = config._attn_implementation
    config._attn_implementation = ATTENTION_NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        # The cache is large.
        AttentionInterface.register(ATTENTION_NAME, shared_prefix_attention)
