"""What a training step should cost on a GPU, by arithmetic: bytes over bandwidth, operations over FLOP rates.

    python benchmarks/step_cost.py                                  prints the tables of docs/performance.md
    python benchmarks/step_cost.py --write docs/performance.md      puts them there

Nothing is measured or run: the numbers are what a first measurement can be compared with. What
is left out makes them too small: launches, norms and other element-wise work, rewards, and the host.

A token of a rollout is decoded for all completions at once. It reads every linear weight, the output layer,
the adapter and the keys and values, those of a prompt once for all of its completions; and it multiplies each
row by all weights. It takes the longer of the two times. Weights are read packed (a fused NF4 product),
dequantized anew for each token (packed in, 16 bits out and in), or as a 16-bit copy.

An update multiplies every token of the packed rows by all linear weights: forwards, backwards (frozen weights
take no gradient), and once more where gradient checkpointing recomputes. Each of these passes dequantizes
every weight once per micro-batch, before it multiplies. The output layer is for completion tokens only.
Attention has a dense mask, so that it multiplies what is masked, too.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.markdown import renew, table
from benchmarks.qwen3 import QWEN3

NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
"""Bits a weight: 4, a scale of 8 bits for 64 weights, and one of 32 bits for 256 of these scales."""
RANK = 16
SPARE = 2_000_000_000
"""Bytes that a card must have left beside weights, copy and cache: its context, and activations."""


@dataclass(frozen=True)
class Card:
    """A GPU by its vendor's numbers. `flops`: of dense bfloat16 products that add up in float32."""

    name: str
    memory: int
    bandwidth: float
    flops: float


def _tensor_rate(multiprocessors: int, boost_hz: float) -> float:
    """Of GeForce cards of compute capability 8.6 and 8.9: 4 tensor cores, 64 multiply-adds a clock each."""
    return multiprocessors * 4 * 64 * 2 * boost_hz


CARDS = (
    Card("RTX 3060 12 GB", 12 << 30, 360e9, _tensor_rate(28, 1.777e9)),
    Card("RTX 3090 24 GB", 24 << 30, 936e9, _tensor_rate(82, 1.695e9)),
    Card("RTX 4090 24 GB", 24 << 30, 1008e9, _tensor_rate(128, 2.520e9)),
    # By its data sheet, which doubles the rate for sparse matrices.
    Card("H200 141 GB", 141_000_000_000, 4800e9, 1979e12 / 2),
)


@dataclass(frozen=True)
class Work:
    """A step: P prompts, G completions each, all of the same length; a micro-batch of some whole rows."""

    prompts: int
    prompt_tokens: int
    generations: int
    completion_tokens: int
    rows_per_micro_batch: int

    @property
    def completions(self) -> int:
        return self.prompts * self.generations

    @property
    def row_tokens(self) -> int:
        """Of a packed row: the last token of a completion predicts nothing."""
        return self.prompt_tokens + self.generations * (self.completion_tokens - 1)

    @property
    def micro_batches(self) -> int:
        return math.ceil(self.prompts / self.rows_per_micro_batch)


WORKS = {
    # What `pgrpo selfcheck` measures with 64 rows: rows of 760 tokens, two in 2048.
    "selfcheck": Work(8, 256, 8, 64, rows_per_micro_batch=2),
    # recipes/qwen3-8b-personas.yaml: rows of 568 tokens, of which its 2048 hold three.
    "personas": Work(8, 64, 8, 64, rows_per_micro_batch=3),
    # A profile in the prompt: the shapes `qlora-*` of step_time.py.
    "profile": Work(8, 1024, 8, 256, rows_per_micro_batch=1),
}


@dataclass(frozen=True)
class Sizes:
    """Parameters and bytes of a Qwen3 model with NF4 layers, the rest in bfloat16."""

    layers: int
    linear: int
    """Weights of all linear layers but the output layer."""
    output: int
    tables: int
    """Embedding and output layer: numbers that are stored."""
    adapter: int
    attention_width: int
    """Heads times their width."""
    cache_bytes: int
    """Keys and values of one token."""

    @property
    def packed_bytes(self) -> float:
        return self.linear * NF4_BITS / 8

    @property
    def copy_bytes(self) -> int:
        return 2 * self.linear

    @property
    def dequantizing_bytes(self) -> float:
        """Packed weights in, 16-bit ones out; what reads those does so while it multiplies."""
        return self.packed_bytes + self.copy_bytes

    @property
    def resident_bytes(self) -> float:
        """Weights, embedding, output layer, and the adapter in float32 with AdamW's two moments in 8 bits."""
        return self.packed_bytes + 2 * self.tables + 6 * self.adapter


def sizes_of(config: dict[str, Any], rank: int = RANK) -> Sizes:
    """From a configuration, with LoRA of that rank on all linear layers."""
    D, F, L = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    products = [(D, queries), (D, keys), (D, keys), (queries, D), (D, F), (D, F), (F, D)]
    table_size = config["vocab_size"] * D
    return Sizes(
        layers=L,
        linear=L * sum(inside * outside for inside, outside in products),
        output=table_size,
        tables=table_size if config["tie_word_embeddings"] else 2 * table_size,
        adapter=L * rank * sum(inside + outside for inside, outside in products),
        attention_width=queries,
        cache_bytes=2 * L * keys * 2,
    )


@dataclass(frozen=True)
class Rates:
    """What a card reaches: bytes and operations a second."""

    bandwidth: float
    flops: float

    def seconds(self, num_bytes: float, operations: float) -> float:
        """Reading and multiplying at the same time."""
        return max(num_bytes / self.bandwidth, operations / self.flops)


@dataclass(frozen=True)
class Rollout:
    """A rollout's parts; `weight_bytes` are read for each token, by the way of reading them."""

    prefill_flop: float
    token_flop: float
    token_bytes: float
    """Of one token of all completions, without linear weights; keys and values at their mean length."""
    weight_bytes: dict[str, float]
    cache_bytes: int
    tokens: int


def rollout_of(sizes: Sizes, work: Work) -> Rollout:
    """Operations and bytes of the rollout of a step."""
    prompt_tokens = work.prompts * work.prompt_tokens
    # Causal: a token sees half of its prompt, and two products of the width of all heads a key.
    attention = 4 * sizes.layers * sizes.attention_width * prompt_tokens * work.prompt_tokens / 2
    prefill = 2 * sizes.linear * prompt_tokens + attention + 2 * sizes.output * work.prompts
    mean_own = work.completion_tokens / 2
    seen = work.prompt_tokens + mean_own
    token_attention = 4 * sizes.layers * sizes.attention_width * seen
    cached = prompt_tokens + work.completions * work.completion_tokens
    return Rollout(
        prefill_flop=prefill,
        token_flop=work.completions * (2 * (sizes.linear + sizes.output + sizes.adapter) + token_attention),
        token_bytes=2 * (sizes.output + sizes.adapter)
        + sizes.cache_bytes * (prompt_tokens + work.completions * mean_own),
        weight_bytes={
            "packed": sizes.packed_bytes,
            "anew": sizes.dequantizing_bytes + sizes.copy_bytes,
            "copy": sizes.copy_bytes,
        },
        cache_bytes=sizes.cache_bytes * cached,
        tokens=work.completion_tokens - 1,
    )


@dataclass(frozen=True)
class Update:
    """Operations of an update, and the bytes that dequantizing moves."""

    linear_flop: float
    attention_flop: float
    head_flop: float
    dequantizing_bytes: float

    @property
    def flop(self) -> float:
        return self.linear_flop + self.attention_flop + self.head_flop


def update_of(sizes: Sizes, work: Work, *, reference: bool, checkpointing: bool) -> Update:
    """Of one update; `reference`: with a forward pass of the base model for the KL penalty."""
    forwards = 1 + checkpointing
    tokens = work.prompts * work.row_tokens
    trained = work.completions * work.completion_tokens
    # The adapter takes a gradient, which is a third product forwards and backwards.
    adapter = sizes.adapter * (2 * forwards + 4)
    linear = 2 * sizes.linear * (forwards + 1 + reference) + adapter
    # Scores and values forwards; scores again and four gradients backwards.
    products = 2 * (forwards + reference) + 5
    attention = products * 2 * sizes.layers * sizes.attention_width * work.prompts * work.row_tokens**2
    # Logits, and their derivative by the hidden state while they are there.
    head = 2 * sizes.output * trained * (2 + reference)
    passes = work.micro_batches * (forwards + 1 + reference)
    return Update(linear * tokens, attention, head, passes * sizes.dequantizing_bytes)


def costs(
    card: Card, sizes: Sizes, work: Work, bandwidth_share: float, flop_share: float
) -> dict[str, float | None]:
    """Seconds of a step's parts on a card that reaches these shares of its rates; None: no room for the copy.

    Micro-batches with gradient checkpointing, as the recipes for such models have it.
    """
    rates = Rates(card.bandwidth * bandwidth_share, card.flops * flop_share)
    rollout = rollout_of(sizes, work)
    prefill = sizes.dequantizing_bytes / rates.bandwidth + rollout.prefill_flop / rates.flops
    found: dict[str, float | None] = {}
    for way, weights in rollout.weight_bytes.items():
        token = rates.seconds(weights + rollout.token_bytes, rollout.token_flop)
        if way == "anew":
            product = rates.seconds(sizes.copy_bytes + rollout.token_bytes, rollout.token_flop)
            token = sizes.dequantizing_bytes / rates.bandwidth + product
        fits = way != "copy" or has_room_for_copy(card, sizes, rollout)
        found[f"token_{way}"] = token if fits else None
        found[f"rollout_{way}"] = prefill + token * rollout.tokens if fits else None
    found["prefill"] = prefill
    for name, reference in (("update", False), ("update_beta", True)):
        update = update_of(sizes, work, reference=reference, checkpointing=True)
        found[name] = update.flop / rates.flops + update.dequantizing_bytes / rates.bandwidth
    return found


def has_room_for_copy(card: Card, sizes: Sizes, rollout: Rollout) -> bool:
    """Whether a 16-bit copy of the linear weights fits beside all else of a rollout."""
    needed = sizes.resident_bytes + sizes.copy_bytes + rollout.cache_bytes + SPARE
    return needed <= card.memory


SHARES = {"at the full rates": (1.0, 1.0), "at 60 % of the bandwidth and 50 % of the FLOP rate": (0.6, 0.5)}
"""Of bandwidth and of the FLOP rate: the limit, and a guess at what kernels reach."""
_SHOWN_MODELS = {"qwen3-8b": "Qwen3-8B", "qwen3-1.7b": "Qwen3-1.7B"}


def sizes_table() -> str:
    """What the arithmetic starts from: a line a model."""
    heading = ["", "linear weights", "output layer", "adapter", "NF4", "copy", "output layer, bytes",
               "keys and values a token"]  # fmt: skip
    rows = []
    for name, shown in _SHOWN_MODELS.items():
        s = sizes_of(QWEN3[name])
        rows.append([shown, f"{s.linear:,}", f"{s.output:,}", f"{s.adapter:,}", _gb(s.packed_bytes),
                     _gb(s.copy_bytes), _gb(2 * s.output), f"{s.cache_bytes:,} bytes"])  # fmt: skip
    return table(heading, rows)


def work_table() -> str:
    """Operations and bytes of a step, before any card comes in."""
    heading = ["model, shape", "a token: TFLOP", "packed", "anew", "copy", "prefill: TFLOP", "update: TFLOP",
               "attention's", "output layer's", "dequantizing", "KV cache"]  # fmt: skip
    rows = []
    for name, shown in _SHOWN_MODELS.items():
        for shape, work in WORKS.items():
            sizes = sizes_of(QWEN3[name])
            rollout = rollout_of(sizes, work)
            update = update_of(sizes, work, reference=False, checkpointing=True)
            read = [_gb(weights + rollout.token_bytes) for weights in rollout.weight_bytes.values()]
            rows.append([f"{shown}, {shape}", _tera(rollout.token_flop), *read, _tera(rollout.prefill_flop),
                         _tera(update.flop), _tera(update.attention_flop), _tera(update.head_flop),
                         _gb(update.dequantizing_bytes), _gb(rollout.cache_bytes)])  # fmt: skip
    return table(heading, rows)


def cost_table(bandwidth_share: float, flop_share: float) -> str:
    """Seconds of rollout and update, a line for each card, model and shape."""
    heading = ["card", "model, shape", "a token, ms: packed", "anew", "copy", "rollout, s: packed", "anew",
               "copy", "update, s", "with beta"]  # fmt: skip
    columns = ("token_packed", "token_anew", "token_copy", "rollout_packed", "rollout_anew", "rollout_copy",
               "update", "update_beta")  # fmt: skip
    rows = []
    for card, name, shape, found in all_costs(bandwidth_share, flop_share):
        cells = [_cell(column, found[column]) for column in columns]
        rows.append([card.name, f"{_SHOWN_MODELS[name]}, {shape}", *cells])
    return table(heading, rows)


def all_costs(
    bandwidth_share: float, flop_share: float
) -> Iterator[tuple[Card, str, str, dict[str, float | None]]]:
    """(card, model, shape, seconds) of all combinations."""
    for card in CARDS:
        for name in _SHOWN_MODELS:
            for shape, work in WORKS.items():
                sizes = sizes_of(QWEN3[name])
                yield card, name, shape, costs(card, sizes, work, bandwidth_share, flop_share)


def _cell(column: str, seconds: float | None) -> str:
    if seconds is None:
        return "no room"
    if column.startswith("token"):
        return f"{1000 * seconds:.1f}"
    return f"{seconds:.1f}" if seconds >= 1 else f"{seconds:.2f}"


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.2f} GB"


def _tera(operations: float) -> str:
    return f"{operations / 1e12:.2f}" if operations < 1e13 else f"{operations / 1e12:.0f}"


def report() -> str:
    """All tables, in Markdown."""
    parts = [sizes_table(), work_table()]
    for words, shares in SHARES.items():
        parts.append(f"Seconds {words}:\n\n{cost_table(*shares)}")
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="renew the tables of that document")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there as well")
    arguments = parser.parse_args()
    sys.stdout.write(report() + "\n")
    if arguments.write:
        renew(arguments.write, "step-cost", report())
    if arguments.json:
        found = [
            {"card": card.name, "model": name, "shape": shape, "shares": shares, "seconds": seconds}
            for shares in SHARES.values()
            for card, name, shape, seconds in all_costs(*shares)
        ]
        works = {name: asdict(work) for name, work in WORKS.items()}
        arguments.json.write_text(json.dumps({"shapes": works, "costs": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
