"""How far a step is from what the machine allows, with both ceilings measured in the same run.

    python benchmarks/roofline.py --shape qlora-8b          on a CUDA device
    python benchmarks/roofline.py --shape profile           on a CPU

Decoding has to read the weights, as they are stored, and the keys and values once a token: its floor is those
bytes over the measured rate of reading memory. Training has to multiply every token with every weight, once
forwards and once backwards (frozen weights take no gradient): its rate is those operations over its time, set
against the measured rate of a large product in the compute dtype. Recomputation by gradient checkpointing is
work that the arithmetic does not ask for, and is not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from rich.console import Console

from benchmarks.shapes import SHAPES
from benchmarks.sides import OurStep, Settings, finish, our_step
from benchmarks.step_time import machine


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    usual = "qlora-8b" if torch.cuda.is_available() else "profile"
    parser.add_argument("--shape", choices=SHAPES, default=usual)
    parser.add_argument("--repeat", type=int, default=3, help="measurements, after a warm-up (default 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    arguments = parser.parse_args()

    ours = our_step(Settings("ours", arguments.shape, 0.0, steps=0))
    device, dtype = ours.policy.device, getattr(torch, ours.shape.dtype)
    found = {
        "read_bytes_per_s": read_rate(device),
        "matrix_flop_per_s": matrix_rate(device, dtype),
        **decoding(ours, arguments.repeat),
        **training(ours, arguments.repeat),
    }
    floor = found["decode_bytes"] / found["read_bytes_per_s"]
    found["decode_over_floor"] = found["decode_seconds"] / floor
    found["training_share_of_matrix_rate"] = found["training_flop_per_s"] / found["matrix_flop_per_s"]
    console = Console()
    for name, value in found.items():
        console.print(f"{name:32} {value:.4g}")
    if arguments.json:
        result = {"shape": arguments.shape, **found, "machine": machine()}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


def decoding(ours: OurStep, repeat: int) -> dict[str, float]:
    """Seconds of one token of all rows, prefill left out, and the bytes that it has to read."""
    from dataclasses import replace

    from pgrpo_cli.model.rollout.sample import sample
    from pgrpo_cli.model.rollout.sampling import sampling_settings

    settings = sampling_settings(ours.recipe.rollout)
    batch, device, T = ours.batches[0], ours.policy.device, settings.max_completion_tokens

    def seconds(tokens: int) -> float:
        shorter = replace(settings, max_completion_tokens=tokens)
        return median_seconds(lambda: sample(ours.policy, batch, shorter, seed=0), device, repeat)

    per_token = (seconds(T) - seconds(1)) / (T - 1)
    model = ours.policy.model.get_base_model()
    weights = {p.data_ptr(): p.numel() * p.element_size() for p in model.parameters()}
    if not model.config.tie_word_embeddings:
        # Of the embedding table a token reads a row.
        embedding = model.get_input_embeddings().weight
        weights.pop(embedding.data_ptr(), None)
    config = ours.policy.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    bytes_a_token = 2 * config.num_hidden_layers * config.num_key_value_heads * width * model.dtype.itemsize
    # The completions' own keys and values are half there on average.
    cached = sum(len(p.input_ids) for p in batch) + ours.shape.num_completions * T / 2
    return {
        "decode_seconds": per_token,
        "decode_bytes": float(sum(weights.values()) + cached * bytes_a_token),
        "decoded_tokens_per_s": ours.shape.num_completions / per_token,
    }


def training(ours: OurStep, repeat: int) -> dict[str, float]:
    """Operations a second of one update."""
    from pgrpo_cli.histories import RewardHistories
    from pgrpo_cli.model.rollout.sample import sample
    from pgrpo_cli.model.rollout.sampling import sampling_settings
    from pgrpo_cli.model.update.optimizer import build_optimizer
    from pgrpo_cli.model.update.policy_update import policy_update
    from pgrpo_cli.rewards.base import Score

    policy, recipe = ours.policy, ours.recipe
    rollouts = sample(policy, ours.batches[0], sampling_settings(recipe.rollout), seed=0)
    scores_N = [Score(n % 7 / 7, {}) for n in range(ours.shape.num_completions)]
    optimizer = build_optimizer(policy, recipe.train)
    advantages = RewardHistories(recipe.advantage, recipe.history).advantages(
        scores_N, rollouts.preference_groups_N, num_generations=rollouts.num_generations, step=1
    )
    tokens = 0

    def update() -> None:
        nonlocal tokens
        tokens = policy_update(policy, optimizer, rollouts, advantages, recipe, step=1).tokens

    spent = median_seconds(update, policy.device, repeat)
    linears = [m for m in policy.decoder.modules() if isinstance(m, torch.nn.Linear)]
    in_layers = sum(m.in_features * m.out_features for m in linears)
    head = policy.model.get_base_model().get_output_embeddings()
    in_head = head.in_features * head.out_features
    operations = 4.0 * (in_layers * tokens + in_head * sum(rollouts.lengths_N))
    return {"training_seconds": spent, "training_flop_per_s": operations / spent}


def read_rate(device: torch.device) -> float:
    """Bytes a second of summing a buffer far larger than any cache."""
    buffer = torch.ones((1 << 30) if device.type == "cuda" else (1 << 27), device=device)
    return buffer.nbytes / median_seconds(lambda: buffer.sum(), device, 5)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large square product."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    return 2.0 * size**3 / median_seconds(lambda: a @ b, device, 5)


def median_seconds(work: Callable[[], Any], device: torch.device, repeat: int) -> float:
    """Median of `repeat` runs after one that is not counted."""
    spent = []
    for _ in range(repeat + 1):
        clock: list[float] = []
        finish(device, clock)
        work()
        finish(device, clock)
        spent.append(clock[1] - clock[0])
    return statistics.median(spent[1:])


if __name__ == "__main__":
    main()
