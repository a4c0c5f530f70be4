"""Bytes of tensors that come and go, by hand."""

from __future__ import annotations

import torch

from pgrpo_cli.model.memory.kernels import kernels_of_devices
from pgrpo_cli.model.memory.meter import Meter


def meter(*known: torch.Tensor) -> Meter:
    return Meter(known, lambda t: "squares" if t.shape[-2:] == (8, 8) else None, label="rest")


def room(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, device="meta")


def test_the_peak_is_what_was_alive_at_once() -> None:
    with meter() as counted:
        first = room(10)
        second = first + 1
        del first
        third = room(5)
        del second, third
        room(12)
    # Two of ten floats at once; later ten and five, and twelve alone.
    assert counted.peak() == {"rest": 80}


def test_views_and_operations_in_place_hold_nothing_of_their_own() -> None:
    with meter() as counted:
        whole = room(6, 4)
        part = whole[2:].t()
        part.add_(1)
        whole.view(-1)[:3].mul_(2)
    assert counted.peak() == {"rest": 96}


def test_what_is_known_does_not_count_nor_do_its_views() -> None:
    weight = room(16, 4)
    with meter(weight) as counted:
        product = room(2, 4) @ weight.t()
    assert product.shape == (2, 16)
    assert counted.peak() == {"rest": (2 * 4 + 2 * 16) * 4}


def test_kinds_come_from_the_tensor_or_the_label_and_can_be_named_afterwards() -> None:
    with meter() as counted:
        kept = room(8, 8)
        counted.label = "later"
        room_for_cache = room(3)
        counted.rename([room_for_cache], "cache")
    assert counted.peak() == {"squares": kept.numel() * 4, "cache": 12}


def test_tensors_with_contents_do_not_count() -> None:
    with meter() as counted:
        torch.ones(1000)
    assert counted.peak() == {}


def test_a_backward_pass_is_followed() -> None:
    x = room(10).requires_grad_()
    with meter(x) as counted:
        y = (x * 2).exp()
        torch.autograd.grad(y.sum(), x)
    # x · 2 and its exponential are kept; then a sum and the gradients on the way back.
    assert counted.peak()["rest"] >= 3 * 40


def attention(x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    return torch.nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=mask)


def test_attention_keeps_no_weights_within_the_block() -> None:
    x = torch.empty(1, 2, 512, 8, device="meta", requires_grad=True)
    weights = 2 * 512 * 512 * 4
    with meter(x) as plain:
        kept = attention(x)
    assert plain.peak().total() > weights
    with meter(x) as fused, kernels_of_devices():
        kept = attention(x)
        torch.autograd.grad(kept.sum(), x)
    assert kept.shape == x.shape
    assert fused.peak().total() < weights / 4
    with meter(x) as after:
        attention(x)
    assert after.peak().total() > weights


def test_a_boolean_mask_becomes_numbers_as_on_a_real_device() -> None:
    real = torch.zeros(1, 2, 8, 4, requires_grad=True)
    mask = torch.ones(1, 1, 8, 8, dtype=torch.bool).tril()
    saved: list[tuple[tuple[int, ...], torch.dtype]] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.append((tuple(tensor.shape), tensor.dtype))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        attention(real, mask)
        of_real = saved.copy()
        saved.clear()
        with kernels_of_devices():
            attention(real.to("meta"), mask.to("meta"))
    assert ((1, 1, 8, 8), torch.float32) in of_real
    # The tensor that moved to the meta device is saved in its place.
    assert sorted(map(str, saved)) == sorted(map(str, of_real))
