"""Replaces the forward functions of layers for the duration of a block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def forwards_replaced(forwards: Mapping[Any, Callable[..., torch.Tensor]]) -> Iterator[None]:
    """Within the block the layers use these functions as their `forward`; afterwards their own again."""
    # `vars`, not `getattr`: most layers have the method of their class only, and nothing to put back.
    before = {layer: vars(layer).get("forward") for layer in forwards}
    for layer, forward in forwards.items():
        layer.forward = forward
    try:
        yield
    finally:
        for layer, forward in before.items():
            del layer.forward
            if forward is not None:
                layer.forward = forward
