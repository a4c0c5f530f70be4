"""Attention over packed rows on a CPU, which computes only what the mask leaves.

Most of a packed row's mask is empty, because completions do not attend to each other:

    keys         prompt | completion 1 | completion 2
    prompt       block 1
    completion 1 block 2, own keys beside the prompt's
    completion 2 block 3             beside block 3's own

PyTorch's kernel for a CPU computes every score of the row. Its backward pass in bfloat16 takes several times
as long as the products that it is made of, most of all for short rows. Here the queries of a row are cut into
blocks, and each block is a few matrix products over the keys that it can attend to.

The blocks belong to one mask and travel with it, as an attribute of the tensor. A model that makes a mask of
its own, or attends in another way, loses them and gets PyTorch's kernel. Without a mask a causal row is one
prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

SMALLEST, LARGEST = 64, 128
"""Queries of a block. Fewer are joined with their neighbours, for every block costs some thirty calls; more
are cut, for under a causal mask the later half of the keys is of no use to the earlier half of the queries.
"""
_ATTRIBUTE = "pgrpo_blocks"
"""Of a mask: its blocks."""
_USED = "pgrpo_packed_attention"
"""Of a module: that it attends in blocks."""


@dataclass(frozen=True)
class Block:
    """The queries [start, end) of a row. Their keys are the first `prompt` ones and those of [own, end)."""

    row: int
    start: int
    end: int
    prompt: int
    own: int

    def keys(self, tensor_R_H_L_D: Tensor) -> Tensor:
        """The keys' entries of a tensor, [H, keys, D]."""
        row = tensor_R_H_L_D[self.row]
        if self.own == self.prompt:
            return row[:, : self.end]
        return torch.cat([row[:, : self.prompt], row[:, self.own : self.end]], dim=1)

    def add(self, values_H_K_D: Tensor, to_R_H_L_D: Tensor) -> None:
        """The inverse of `keys`: add to the keys' entries."""
        row = to_R_H_L_D[self.row]
        row[:, : self.prompt] += values_H_K_D[:, : self.prompt]
        row[:, self.own : self.end] += values_H_K_D[:, self.prompt :]


def blocks_of(segments_R_L: Tensor) -> list[Block]:
    """The blocks of packed rows. `segments_R_L`: 0 on the prompt, g on the g-th completion, -1 on padding."""
    return [block for r, segments in enumerate(segments_R_L.tolist()) for block in _row_blocks(r, segments)]


def _row_blocks(row: int, segments: Sequence[int]) -> list[Block]:
    """A block ends with the segment in which it is large enough, or where it is full."""
    length, prompt = len(segments) - segments.count(-1), segments.count(0)
    blocks: list[Block] = []
    begins = [0, *(i for i in range(1, length) if segments[i] != segments[i - 1]), length]
    start, own = 0, 0  # `own`: where the segment begins that the block's first query is in
    for first, end in pairwise(begins):
        own = own if start < first else first
        while end - start >= LARGEST or (start < end and (end == length or end - start >= SMALLEST)):
            stop = min(end, start + LARGEST)
            # What begins in the prompt has no keys but those up to its end.
            shared = prompt if own else min(prompt, stop)
            blocks.append(Block(row, start, stop, shared, max(own, shared)))
            start, own = stop, first
    return blocks


class Blocks:
    """The blocks of a mask [R, 1, L, L], and what each adds to its scores: 0 where it attends, else -inf."""

    def __init__(self, mask_R_1_L_L: Tensor, blocks: Sequence[Block]) -> None:
        self.shape, self.blocks = mask_R_1_L_L.shape, blocks
        self.bias = [_bias(mask_R_1_L_L, block) for block in blocks]


def _bias(mask_R_1_L_L: Tensor, block: Block) -> Tensor:
    """[1, 1, queries, keys]."""
    sees = block.keys(mask_R_1_L_L[:, :, block.start : block.end].transpose(2, 3)).transpose(1, 2)
    return torch.zeros(1, *sees.shape).masked_fill_(~sees, float("-inf"))


@lru_cache(maxsize=1)  # All layers ask for the same one.
def _causal_blocks(rows: int, length: int) -> Blocks:
    """Those of rows without completions, which need no mask: a prefill, or padded rows."""
    mask = torch.ones(length, length, dtype=torch.bool).tril().expand(rows, 1, -1, -1)
    return Blocks(mask, blocks_of(torch.zeros(rows, length, dtype=torch.long)))


def with_blocks(mask_R_1_L_L: Tensor, blocks: Sequence[Block]) -> Tensor:
    """The boolean mask of packed rows, with its blocks."""
    setattr(mask_R_1_L_L, _ATTRIBUTE, Blocks(mask_R_1_L_L, blocks))
    return mask_R_1_L_L


def use_packed_attention(model: nn.Module) -> None:
    """Let transformers' `sdpa` look for blocks where this model attends. Other models of the process, for
    instance those of TRL, keep the kernel that they have.
    """
    from transformers import AttentionInterface

    AttentionInterface.register("sdpa", _attention)
    for module in model.modules():
        setattr(module, _USED, True)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, Any]:
    """As transformers calls every attention function. `query` [R, H, L, D] to [R, L, H, D]."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    blocks: Blocks | None = getattr(attention_mask, _ATTRIBUTE, None)
    used = getattr(module, _USED, False)
    R, _, L, _ = query.shape
    if used and attention_mask is None and L == key.shape[2] > 1 and query.device.type == "cpu":
        causal = others.get("is_causal")
        causal = getattr(module, "is_causal", True) if causal is None else causal
        blocks = _causal_blocks(R, L) if causal else None
    special = dropout or any(others.get(name) is not None for name in ("softcap", "position_bias", "cache"))
    if blocks is None or special or not L == key.shape[2] == blocks.shape[-1]:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return PackedAttention.apply(query, key, value, blocks, scaling), None  # type: ignore[no-untyped-call]


class PackedAttention(torch.autograd.Function):
    """Queries [R, H·G, L, D], keys [R, H, L, D] and values [R, H, L, E] to [R, L, H·G, E], block by block.

    Each of the H key heads serves G query heads, whose queries form one matrix. Up to the result, and in the
    gradients of keys and values, which several blocks add to, numbers are at least float32. So rows that are
    cut in different ways agree more closely than by PyTorch's kernel, which rounds the weights. They are
    computed a second time in the backward pass: they would be the largest tensors of a layer.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: Blocks, scaling: float
    ) -> Tensor:
        R, heads, L, _ = query.shape
        out_R_L_H_E = query.new_zeros(R, L, heads, value.shape[-1])
        precise = _Scores(query, key, scaling)
        values = value.to(precise.dtype)
        for block, bias in zip(blocks.blocks, blocks.bias, strict=True):
            weights = precise.weights(block, bias)
            _put(out_R_L_H_E, block, torch.bmm(weights, block.keys(values)))
        ctx.save_for_backward(query, key, value)
        ctx.blocks, ctx.scaling = blocks, scaling
        return out_R_L_H_E

    @staticmethod
    def backward(ctx: Any, grad_R_L_H_E: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        precise = _Scores(query, key, ctx.scaling)
        grad_query = query.new_zeros(query.shape[0], query.shape[2], query.shape[1], query.shape[3])
        grad_key, grad_value = (
            torch.zeros_like(precise.key),
            value.new_zeros(value.shape, dtype=precise.dtype),
        )
        for block, bias in zip(ctx.blocks.blocks, ctx.blocks.bias, strict=True):
            queries, keys = _rows(query, block, key.shape[1]), block.keys(key)
            grad = _rows(grad_R_L_H_E.transpose(1, 2), block, key.shape[1])
            weights = precise.weights(block, bias)
            block.add(torch.bmm(weights.to(value.dtype).transpose(1, 2), grad), grad_value)
            grad_weights = torch.bmm(grad, block.keys(value).transpose(1, 2)).to(precise.dtype)
            # The derivative of softmax: w (g - sum of w g).
            inner = (grad_weights * weights).sum(dim=-1, keepdim=True)
            grad_scores = grad_weights.sub_(inner).mul_(weights).mul_(ctx.scaling).to(query.dtype)
            _put(grad_query, block, torch.bmm(grad_scores, keys))
            block.add(torch.bmm(grad_scores.transpose(1, 2), queries), grad_key)
        return grad_query.transpose(1, 2), grad_key.to(key.dtype), grad_value.to(value.dtype), None, None


class _Scores:
    """Attention weights of blocks, at least in float32: scores that are rounded to bfloat16 are off by more
    than everything else here.
    """

    def __init__(self, query: Tensor, key: Tensor, scaling: float) -> None:
        self.dtype = torch.promote_types(query.dtype, torch.float32)
        self.query, self.key = query.to(self.dtype) * scaling, key.to(self.dtype)

    def weights(self, block: Block, bias: Tensor) -> Tensor:
        """[H, G·queries, keys]."""
        heads = self.key.shape[1]
        scores = torch.bmm(_rows(self.query, block, heads), block.keys(self.key).transpose(1, 2))
        shape = scores.shape
        scores = scores.view(heads, -1, *bias.shape[2:]).add_(bias)
        return torch.softmax(scores, dim=-1).view(shape)


def _rows(tensor_R_H_L_D: Tensor, block: Block, heads: int) -> Tensor:
    """The block's queries [heads, G·queries, D]."""
    queries = tensor_R_H_L_D[block.row, :, block.start : block.end]
    return queries.reshape(heads, -1, queries.shape[-1])


def _put(out_R_L_H_E: Tensor, block: Block, values: Tensor) -> None:
    """The inverse of `_rows`: [heads, G·queries, E] into their places."""
    _, _, heads, width = out_R_L_H_E.shape
    out_R_L_H_E[block.row, block.start : block.end] = values.view(heads, -1, width).transpose(0, 1)
