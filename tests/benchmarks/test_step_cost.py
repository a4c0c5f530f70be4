"""What a step should cost, against arithmetic by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.qwen3 import QWEN3
from benchmarks.step_cost import (
    CARDS,
    NF4_BITS,
    SHARES,
    WORKS,
    Card,
    Work,
    costs,
    has_room_for_copy,
    report,
    rollout_of,
    sizes_of,
    update_of,
)

ROOT = Path(__file__).parents[2]

# Two layers of 4 features, 2 heads of 3, 1 of them for keys, 8 features inside the MLP, 10 tokens.
SMALL = {
    "vocab_size": 10,
    "hidden_size": 4,
    "intermediate_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 3,
    "tie_word_embeddings": False,
}
# 3 prompts of 5 tokens, 2 completions of 7 each: rows of 5 + 2 · 6 = 17 tokens, two of them at a time.
WORK = Work(3, 5, 2, 7, rows_per_micro_batch=2)


def test_parameters_by_hand() -> None:
    sizes = sizes_of(SMALL, rank=2)
    # A layer: queries 4·6, keys and values 2·(4·3), output 6·4, MLP 3·(4·8).
    assert sizes.linear == 2 * (24 + 24 + 24 + 96)
    # A and B of each: 2·((4+6) + 2·(4+3) + (6+4) + 3·(4+8)).
    assert sizes.adapter == 2 * 2 * (10 + 14 + 10 + 36)
    assert (sizes.output, sizes.tables, sizes.attention_width) == (40, 80, 6)
    # Keys and values of 3 features in 2 layers, 2 bytes each.
    assert sizes.cache_bytes == 2 * 2 * 3 * 2
    assert sizes_of({**SMALL, "tie_word_embeddings": True}).tables == 40


def test_the_published_models_have_their_published_sizes() -> None:
    large, small = sizes_of(QWEN3["qwen3-8b"]), sizes_of(QWEN3["qwen3-1.7b"])
    # 36 · (4096·4096·2 + 2·4096·1024 + 3·4096·12288); 28 · (2048·2048·2 + 2·2048·1024 + 3·2048·6144).
    assert (large.linear, small.linear) == (6_945_767_424, 1_409_286_144)
    # The model cards: 8.2 and 1.7 billion parameters, 6.95 and 1.4 without embeddings.
    assert (large.linear + large.tables) / 1e9 == pytest.approx(8.2, abs=0.02)
    assert (small.linear + small.tables) / 1e9 == pytest.approx(1.7, abs=0.03)
    # 4 + 0.125 + 0.00195 bits.
    assert NF4_BITS == 4.126953125
    assert large.packed_bytes / 1e9 == pytest.approx(3.583, abs=0.001)
    assert large.copy_bytes == 13_891_534_848


def test_a_rollout_by_hand() -> None:
    sizes = sizes_of(SMALL, rank=2)
    rollout = rollout_of(sizes, WORK)
    # 15 tokens by 336 weights; 2 layers · 4 · 6 · 15 tokens · 2.5 keys; 3 rows of logits.
    assert rollout.prefill_flop == 2 * 336 * 15 + 2 * 4 * 6 * 15 * 2.5 + 2 * 40 * 3
    # 6 rows by weights, output layer and adapter; each sees 5 tokens of its prompt and 3.5 of its own.
    assert rollout.token_flop == 6 * (2 * (336 + 40 + 280) + 2 * 4 * 6 * 8.5)
    # Output layer and adapter in 16 bits; 24 bytes for each of 15 prompt tokens and of 6 · 3.5 others.
    assert rollout.token_bytes == 2 * (40 + 280) + 24 * (15 + 21)
    packed = 336 * NF4_BITS / 8
    assert rollout.weight_bytes == {"packed": packed, "anew": packed + 2 * 672, "copy": 672}
    assert rollout.cache_bytes == 24 * (15 + 6 * 7)
    assert rollout.tokens == 6


@pytest.mark.parametrize(("reference", "checkpointing"), [(False, False), (True, False), (False, True)])
def test_an_update_by_hand(reference: bool, checkpointing: bool) -> None:
    sizes = sizes_of(SMALL, rank=2)
    update = update_of(sizes, WORK, reference=reference, checkpointing=checkpointing)
    # Forwards and backwards, and one forward pass more for either; the adapter has no part in the reference.
    passes = 2 + reference + checkpointing
    assert update.linear_flop == 51 * (2 * 336 * passes + 280 * (2 + 2 * checkpointing + 4))
    # 3 rows, 17 by 17 positions, 6 features, 2 layers; a forward pass has 2 products, a backward pass 5.
    products = 2 * (1 + reference + checkpointing) + 5
    assert update.attention_flop == products * 2 * 2 * 6 * 3 * 17**2
    # 42 completion tokens: logits and derivative, and logits of the reference.
    assert update.head_flop == 2 * 40 * 42 * (2 + reference)
    # Two micro-batches; packed in, 16 bits out.
    assert update.dequantizing_bytes == pytest.approx(2 * passes * (336 * NF4_BITS / 8 + 672))


def test_seconds_are_the_longer_of_reading_and_multiplying() -> None:
    sizes = sizes_of(SMALL, rank=2)
    rollout = rollout_of(sizes, WORK)
    reading = Card("", 1 << 40, bandwidth=1.0, flops=1e30)
    found = costs(reading, sizes, WORK, 0.5, 1.0)
    token = (rollout.weight_bytes["packed"] + rollout.token_bytes) / 0.5
    assert found["token_packed"] == pytest.approx(token)
    prefill = (336 * NF4_BITS / 8 + 672) / 0.5
    assert found["rollout_packed"] == pytest.approx(prefill + 6 * token)
    assert found["token_anew"] == pytest.approx((rollout.weight_bytes["anew"] + rollout.token_bytes) / 0.5)
    multiplying = costs(Card("", 1 << 40, 1e30, flops=1.0), sizes, WORK, 1.0, 0.25)
    assert multiplying["token_copy"] == pytest.approx(4 * rollout.token_flop)
    update = update_of(sizes, WORK, reference=False, checkpointing=True)
    assert multiplying["update"] == pytest.approx(4 * update.flop)
    assert costs(Card("", 0, 1.0, 1.0), sizes, WORK, 1.0, 1.0)["rollout_copy"] is None


def test_the_cards_have_their_vendors_rates() -> None:
    # Tensor rates with float32 accumulation of the whitepapers; 25 for the 3060, half of its 51 in float16;
    # 989 of the H200's data sheet without sparsity.
    assert [int(card.flops / 1e12) for card in CARDS] == [25, 71, 165, 989]
    # Width of the bus in bytes times the rate of a pin: 192, 384, 384 bits at 15, 19.5 and 21 Gbit/s.
    assert [card.bandwidth for card in CARDS] == [24 * 15e9, 48 * 19.5e9, 48 * 21e9, 4.8e12]


def test_a_copy_of_8b_has_room_on_24_gb_beside_short_prompts_only() -> None:
    # 3.58 + 2.49 + 0.26 + 13.89 + 2 GB, and 0.91, 0.68 or 3.62 GB of keys and values; a card has 25.77 GB.
    sizes = sizes_of(QWEN3["qwen3-8b"])
    rooms = [
        [has_room_for_copy(card, sizes, rollout_of(sizes, work)) for work in WORKS.values()] for card in CARDS
    ]
    assert rooms == [[False] * 3, [True, True, False], [True, True, False], [True] * 3]


def test_the_document_has_the_commands_tables(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert f"<!-- step-cost -->\n{report()}\n<!-- /step-cost -->" in page
    found = tmp_path / "found.json"
    command = [sys.executable, "-X", "importtime", "benchmarks/step_cost.py", "--json", str(found)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == report() + "\n"
    assert not any(line.endswith("| torch") for line in done.stderr.splitlines())
    # Four cards, two models, three shapes.
    assert len(json.loads(found.read_text())["costs"]) == 24 * len(SHARES)
