"""Operations that are missing on the meta device, or that use other memory there than on a real device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.library import Library


@contextmanager
def kernels_of_devices() -> Iterator[None]:
    """Within the block these operations use the same memory on the meta device as on a real one.

    Otherwise torch decomposes attention on the meta device into products that keep all attention weights, and
    has no implementation of oneDNN's weight layouts.
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
    """Memory-efficient attention. For the backward pass it keeps queries, keys, values, output, one
    log-sum-exp per query, and the additive mask.
    """
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        # torch does the same, in every layer again.
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(attn_mask, 0.0)
    output, _ = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
    )
    return output  # type: ignore[no-any-return]


def _laid_out(weight: torch.Tensor, rows: int | None = None) -> torch.Tensor:
    """A weight in oneDNN's layout: the same numbers in another order, so the same size."""
    return torch.empty_like(weight)
