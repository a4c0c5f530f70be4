"""Operations that the meta device lacks or does otherwise, with the memory that they take on a real one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.library import Library


@contextmanager
def kernels_of_devices() -> Iterator[None]:
    """Within the block meta tensors know these operations.

    Left to itself torch decomposes attention on the meta device into products that keep all attention
    weights, and knows nothing of oneDNN's layouts of weights.
    """
    attention, layouts = Library("aten", "IMPL"), Library("mkldnn", "IMPL")
    attention.impl("scaled_dot_product_attention", _fused_attention, "AutogradMeta")
    layouts.impl("_reorder_linear_weight", _laid_out, "Meta")
    try:
        yield
    finally:
        attention._destroy()
        layouts._destroy()


def _fused_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """The backward pass keeps queries, keys, values, output, a sum a query, and the mask as numbers."""
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        # As torch does, in every layer anew.
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(attn_mask, 0.0)
    output, _ = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
    )
    return output  # type: ignore[no-any-return]


def _laid_out(weight: torch.Tensor, rows: int | None = None) -> torch.Tensor:
    """A weight as oneDNN wants it: another order of the same numbers."""
    return torch.empty_like(weight)
