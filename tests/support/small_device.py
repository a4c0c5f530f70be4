"""A device that runs out of memory: the only part of it that is made up is the limit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pgrpo_cli.model.policy import Policy


def _refuse(tokens: int, most: int) -> None:
    if tokens > most:
        raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to hold {tokens} tokens.")


@contextmanager
def forward_limit(policy: Policy, most: int) -> Iterator[list[int]]:
    """Within the block a forward pass over more than `most` tokens fails in the decoder's last layer.

    Yields the numbers of tokens of all forward passes, failed ones too.
    """
    seen: list[int] = []

    def before(module: Any, arguments: Any, options: dict[str, Any]) -> None:
        hidden = arguments[0] if arguments else options["hidden_states"]
        seen.append(hidden.shape[:2].numel())
        _refuse(seen[-1], most)

    with _hook(policy.decoder.layers[-1].register_forward_pre_hook(before, with_kwargs=True)):
        yield seen


@contextmanager
def backward_limit(policy: Policy, most: int) -> Iterator[list[int]]:
    """Within the block a backward pass over more than `most` tokens fails before the decoder's first layer.

    The later layers have their gradients by then. Yields the numbers of tokens, failed ones too.
    """
    seen: list[int] = []

    def on_gradient(gradient: torch.Tensor) -> None:
        seen.append(gradient.shape[:2].numel())
        _refuse(seen[-1], most)

    def after(module: Any, arguments: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.requires_grad:
            hidden.register_hook(on_gradient)

    with _hook(policy.decoder.layers[0].register_forward_hook(after)):
        yield seen


@contextmanager
def _hook(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()
