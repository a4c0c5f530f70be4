"""Attention block by block against PyTorch's over the whole row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from pgrpo_cli.model.policy import Policy
from pgrpo_cli.model.update import packed_attention, packing
from pgrpo_cli.model.update.logprobs import packed_logprobs
from pgrpo_cli.model.update.packed_attention import Block, Blocks, PackedAttention, blocks_of
from pgrpo_cli.model.update.packing import pack, whole_rows
from tests.support.memory_plans import real_policy, recipe_for, write_model
from tests.support.policies import made_up_rollouts

Row = tuple[int, list[int]]
"""The tokens of a prompt and of its completions; a completion's last token is not in the row."""


def segments_of(rows: Sequence[Row]) -> torch.Tensor:
    found = [[0] * prompt + [g for g, n in enumerate(own, 1) for _ in range(n)] for prompt, own in rows]
    width = max(map(len, found))
    return torch.tensor([row + [-1] * (width - len(row)) for row in found])


def mask_of(segments: torch.Tensor) -> torch.Tensor:
    """True where a token attends: to itself, and before it to the prompt and to its own segment."""
    key, query = segments[:, None, None, :], segments[:, None, :, None]
    before = torch.ones(segments.shape[1], segments.shape[1], dtype=torch.bool).tril()
    return (before & ((key == 0) | (key == query)) & (query >= 0)) | torch.eye(len(before), dtype=torch.bool)


def tensors(R: int, L: int, heads: int, per_head: int, dtype: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = [(R, heads * per_head, L, 6), (R, heads, L, 6), (R, heads, L, 4)]
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


def theirs(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    output = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.5, enable_gqa=True)
    return output.transpose(1, 2)


row_lengths = st.tuples(st.integers(1, 150), st.lists(st.integers(1, 140), min_size=1, max_size=3))


@settings(deadline=None, max_examples=15)
@given(
    rows=st.lists(row_lengths, min_size=1, max_size=2), heads=st.integers(1, 2), per_head=st.integers(1, 3)
)
def test_values_and_gradients_are_those_of_the_whole_row(rows: list[Row], heads: int, per_head: int) -> None:
    segments = segments_of(rows)
    mask, (R, L) = mask_of(segments), segments.shape
    inputs = tensors(R, L, heads, per_head, torch.float64)
    real = (segments >= 0)[:, :, None, None]
    grad = torch.randn(R, L, heads * per_head, 4, dtype=torch.float64) * real
    ours = PackedAttention.apply(*inputs, Blocks(mask, blocks_of(segments)), 0.5)
    other = theirs(*inputs, mask)
    torch.testing.assert_close(ours * real, other * real)
    for a, b in zip(
        torch.autograd.grad(ours, inputs, grad), torch.autograd.grad(other, inputs, grad), strict=True
    ):
        torch.testing.assert_close(a, b)


@settings(deadline=None)
@given(rows=st.lists(row_lengths, min_size=1, max_size=3))
def test_each_query_is_in_one_block_with_all_of_its_keys(rows: list[Row]) -> None:
    segments = segments_of(rows)
    blocks = blocks_of(segments)
    for r, row in enumerate(segments.tolist()):
        queries = [q for block in blocks if block.row == r for q in range(block.start, block.end)]
        assert queries == [place for place, segment in enumerate(row) if segment >= 0]
    for block in blocks:
        row = segments[block.row].tolist()
        keys = {*range(block.prompt), *range(block.own, block.end)}
        needed = {k for q in range(block.start, block.end) for k in range(q + 1) if row[k] in (0, row[q])}
        assert needed <= keys
        assert block.end - block.start <= packed_attention.LARGEST


def test_rows_are_cut_into_blocks() -> None:
    # A prompt of 200: 128, and the other 72. Completions of 30 and 40 fill a block together; those of 40 and
    # 10 are what is left.
    segments = segments_of([(200, [30, 40, 40, 10])])
    assert blocks_of(segments) == [
        Block(0, 0, 128, 128, 128),
        Block(0, 128, 200, 200, 200),
        Block(0, 200, 270, 200, 200),
        Block(0, 270, 320, 200, 270),
    ]
    # A completion that is longer than a block: its second half attends to its first one.
    assert blocks_of(segments_of([(10, [200])])) == [Block(0, 0, 128, 10, 10), Block(0, 128, 210, 10, 10)]
    assert blocks_of(segments_of([(70, [150])])) == [
        Block(0, 0, 70, 70, 70),
        Block(0, 70, 198, 70, 70),
        Block(0, 198, 220, 70, 70),
    ]


def test_scores_are_not_rounded_to_bfloat16() -> None:
    segments = segments_of([(40, [30, 30]), (60, [20, 25])])
    mask, (R, L) = mask_of(segments), segments.shape
    inputs = tensors(R, L, 2, 2, torch.bfloat16)
    # Scores of some tens, where bfloat16 is off by 0.1.
    inputs[0] = (inputs[0] * 20).detach().requires_grad_()
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    real = (segments >= 0)[:, :, None, None]
    grad = torch.randn(R, L, 4, 4) * real
    outputs = [
        PackedAttention.apply(*inputs, Blocks(mask, blocks_of(segments)), 0.5),
        theirs(*exact, mask),
    ]
    gradients = [
        torch.autograd.grad(output, of, grad.to(output.dtype))
        for output, of in zip(outputs, (inputs, exact), strict=True)
    ]
    for ours, other in [(outputs[0] * real, outputs[1] * real), *zip(*gradients, strict=True)]:
        assert (ours.double() - other).norm() < 0.01 * other.norm()


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    write_model(tmp_path, "gemma3_text", hidden_size=64, intermediate_size=96)
    policy = real_policy(recipe_for(tmp_path))
    packed_attention.use_packed_attention(policy.model)
    return policy


def logprobs_and_calls(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Tensor, int]:
    """Log-probabilities of made-up rollouts, and how often attention was computed block by block."""
    calls: list[Any] = []
    apply = PackedAttention.apply
    monkeypatch.setattr(PackedAttention, "apply", lambda *a: (calls.append(a), apply(*a))[1])
    rollouts = made_up_rollouts([40, 9], [30, 12, 25, 3])
    packed = pack(whole_rows(rollouts), rollouts, pad_token_id=0)
    return packed_logprobs(policy, packed, temperature=1.0), len(calls)


def test_a_model_on_a_cpu_takes_it_in_every_layer(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, calls = logprobs_and_calls(policy, monkeypatch)
    assert calls == policy.config.num_hidden_layers
    monkeypatch.setattr(packing, "blocks_of", lambda segments: [])
    other, calls = logprobs_and_calls(policy, monkeypatch)
    assert calls == 0
    torch.testing.assert_close(ours, other)


def test_a_mask_that_the_model_has_changed_has_no_blocks(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = packing.attention_mask

    def changed(*arguments: Any) -> Any:
        return {kind: mask[..., :].clone() for kind, mask in whole(*arguments).items()}

    monkeypatch.setattr("pgrpo_cli.model.update.logprobs.attention_mask", changed)
    assert logprobs_and_calls(policy, monkeypatch)[1] == 0


@pytest.mark.parametrize(
    ("used", "is_causal", "taken"),
    [(True, True, True), (True, False, False), (True, None, True), (False, True, False)],
)
def test_a_causal_row_needs_no_mask_where_the_model_attends_in_blocks(
    monkeypatch: pytest.MonkeyPatch, used: bool, is_causal: bool | None, taken: bool
) -> None:
    query, key, value = tensors(2, 150, 2, 2, torch.float64)
    calls: list[Any] = []
    apply = PackedAttention.apply
    monkeypatch.setattr(PackedAttention, "apply", lambda *a: (calls.append(a), apply(*a))[1])
    module: Any = torch.nn.Identity()
    module.num_key_value_groups = 2
    if used:
        packed_attention.use_packed_attention(module)
    options: dict[str, Any] = {"is_causal": is_causal, "scaling": 0.5}
    ours, _ = packed_attention._attention(module, query, key, value, None, **options)
    other, _ = sdpa_attention_forward(module, query, key, value, None, **options)
    assert bool(calls) is taken
    torch.testing.assert_close(ours, other)


def test_a_step_over_cached_keys_is_no_causal_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PackedAttention, "apply", None)
    query, key, value = tensors(2, 9, 1, 1, torch.float64)
    module: Any = torch.nn.Identity()
    packed_attention.use_packed_attention(module)
    ours, _ = packed_attention._attention(module, query[:, :, -1:], key, value, None)
    other, _ = sdpa_attention_forward(module, query[:, :, -1:], key, value, None)
    torch.testing.assert_close(ours, other)
