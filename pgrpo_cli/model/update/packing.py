"""Rows for training: a prompt once, followed by its completions, which do not attend to each other.

    tokens      p0 p1 p2 | a0 a1 | b0 b1 b2
    segment      0  0  0 |  1  1 |  2  2  2      (-1 on padding)
    position     0  1  2 |  3  4 |  3  4  5      (restarts after the prompt)

The last token of a completion predicts no token that is trained, so it is not part of the row. Shapes: R rows
of L tokens, and M completion tokens whose log-probabilities are computed.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from .packed_attention import Block, blocks_of, with_blocks

if TYPE_CHECKING:
    from ..rollouts import Rollouts


@dataclass(frozen=True)
class Row:
    """One prompt and some of its completions, as indices into the P and N axes of the rollouts."""

    prompt: int
    completions: tuple[int, ...]
    length: int


@dataclass(frozen=True)
class Packed:
    """A micro-batch of rows.

    `source_M` are indices into the flattened [R·L] hidden states; the hidden state there predicts the token
    in `target_M`. `row_M` and `column_M` are the places of these tokens in the [N, T] arrays of the
    micro-batch. Row n of these arrays is completion `completions_N[n]` of the rollouts.
    """

    input_ids_R_L: torch.Tensor
    position_ids_R_L: torch.Tensor
    segments_R_L: torch.Tensor
    source_M: torch.Tensor
    target_M: torch.Tensor
    row_M: torch.Tensor
    column_M: torch.Tensor
    completions_N: torch.Tensor


def micro_batches(
    rollouts: Rollouts, token_budget: int, completions: Collection[int] | None = None
) -> Iterator[list[Row]]:
    """Yield micro-batches of rows with at most `token_budget` tokens each, padding included; longest first.

    The completions of a prompt are split over several rows if they exceed the budget. A row holds at least
    one completion. `completions`: which completions to use; None: all.
    """
    wanted = range(len(rollouts.completion_ids_N_T)) if completions is None else set(completions)
    rows = sorted(_rows(rollouts, token_budget, wanted), key=lambda row: (-row.length, row.completions))
    group: list[Row] = []
    for row in rows:
        longest = group[0].length if group else row.length
        if group and (len(group) + 1) * longest > token_budget:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def whole_rows(rollouts: Rollouts) -> list[Row]:
    """One row per prompt, with all of its completions."""
    return list(_rows(rollouts, sys.maxsize, range(len(rollouts.completion_ids_N_T))))


def _rows(rollouts: Rollouts, token_budget: int, wanted: Container[int]) -> Iterator[Row]:
    lengths_N = rollouts.lengths_N
    for p, prompt in enumerate(rollouts.prompts):
        kept: list[int] = []
        length = len(prompt.input_ids)
        for n in range(p * rollouts.num_generations, (p + 1) * rollouts.num_generations):
            if n not in wanted:
                continue
            extra = lengths_N[n] - 1
            if kept and length + extra > token_budget:
                yield Row(p, tuple(kept), length)
                kept, length = [], len(prompt.input_ids)
            kept.append(n)
            length += extra
        if kept:
            yield Row(p, tuple(kept), length)


def pack(rows: list[Row], rollouts: Rollouts, *, pad_token_id: int) -> Packed:
    """Lay the rows out as tensors on the CPU."""
    L = max(row.length for row in rows)
    ids_R_L = torch.full((len(rows), L), pad_token_id)
    positions_R_L = torch.zeros((len(rows), L), dtype=torch.long)
    segments_R_L = torch.full((len(rows), L), -1)
    source, target, places = [], [], []
    lengths_N = rollouts.lengths_N
    completions = [n for row in rows for n in row.completions]
    place_of = {n: i for i, n in enumerate(completions)}
    for r, row in enumerate(rows):
        prompt = torch.tensor(rollouts.prompts[row.prompt].input_ids)
        end = len(prompt)
        ids_R_L[r, :end], positions_R_L[r, :end], segments_R_L[r, :end] = prompt, torch.arange(end), 0
        for g, n in enumerate(row.completions):
            start, inside = end, lengths_N[n] - 1
            end = start + inside
            ids_R_L[r, start:end] = rollouts.completion_ids_N_T[n, :inside]
            positions_R_L[r, start:end] = torch.arange(len(prompt), len(prompt) + inside)
            segments_R_L[r, start:end] = g + 1
            # The first token of a completion is predicted by the last token of the prompt, which is not next
            # to it in the row (except for the first completion).
            first = torch.tensor([r * L + len(prompt) - 1])
            source.append(torch.cat([first, torch.arange(r * L + start, r * L + end)]))
            target.append(rollouts.completion_ids_N_T[n, : inside + 1])
            places.append(torch.stack([torch.full((inside + 1,), place_of[n]), torch.arange(inside + 1)]))
    row_M, column_M = torch.cat(places, dim=1)
    return Packed(
        ids_R_L,
        positions_R_L,
        segments_R_L,
        torch.cat(source),
        torch.cat(target),
        row_M,
        column_M,
        torch.tensor(completions),
    )


def attention_mask(packed: Packed, config: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """The mask as transformers takes it: boolean [R, 1, L, L] (True = attends), additive for eager attention.

    The window of a sliding-window layer applies to positions, which restart after the prompt, not to indices
    in the row. Models with several types of layers take a dictionary with one mask per type. If
    `sliding_window` is set and the model does not name types, the window applies to all layers.
    """
    segments = packed.segments_R_L.to(device)
    positions = packed.position_ids_R_L.to(device)
    L = segments.shape[1]
    index = torch.arange(L, device=device)
    query, key = segments.unsqueeze(2), segments.unsqueeze(1)
    sees_R_L_L = (index.unsqueeze(1) >= index) & ((key == 0) | (key == query)) & (key >= 0)
    # Every token attends to itself, padding too: a softmax over no keys would be NaN.
    sees_R_L_L |= torch.eye(L, dtype=torch.bool, device=device)
    window, layer_types = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    blocks = blocks_of(packed.segments_R_L) if device.type == "cpu" else ()
    full = _as_mask(sees_R_L_L, config, dtype, blocks)
    if window is None or (layer_types and "sliding_attention" not in layer_types):
        return full
    near_R_L_L = positions.unsqueeze(2) - positions.unsqueeze(1) < window
    sliding = _as_mask(sees_R_L_L & near_R_L_L, config, dtype, blocks)
    return {"full_attention": full, "sliding_attention": sliding} if layer_types else sliding


def _as_mask(
    sees_R_L_L: torch.Tensor, config: Any, dtype: torch.dtype, blocks: Sequence[Block]
) -> torch.Tensor:
    sees = sees_R_L_L.unsqueeze(1)
    if config._attn_implementation == "sdpa" and blocks:
        return with_blocks(sees, blocks)
    if config._attn_implementation != "eager":
        return sees
    return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill(~sees, torch.finfo(dtype).min)
