"""What PGRPOTrainer adds to a step of TRL's GRPOTrainer: the ratio of their seconds.

    python benchmarks/trl_overhead.py --json trl_overhead.json

Both train a small model with random weights on the same data with the same arguments, in one process on a
CPU. They take turns, one step each; those of the first rounds are left out. Seconds are processor time, which
other work on the machine hardly stretches. The ratio is that of the medians, with a bootstrap interval over
rounds. `advantages`: the seconds of PGRPOTrainer's own part of a step, measured inside it, as a share of the
step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.trainer_callback import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from pgrpo_cli.cli.libraries import prepare_libraries
from pgrpo_cli.engines.trl import PGRPOTrainer
from pgrpo_cli.model.load.random_model import random_tokenizer

PROMPTS, GENERATIONS, COMPLETION, WARM_UP = 8, 8, 32, 3


class Timed(PGRPOTrainer):
    """Adds up the seconds that it spends outside of GRPOTrainer."""

    own_seconds = 0.0

    def gathered_scores(self, *arguments: Any) -> Any:
        began = time.process_time()
        found = super().gathered_scores(*arguments)
        self.own_seconds += time.process_time() - began
        return found

    def _personalized(self) -> Any:
        began = time.process_time()
        found = super()._personalized()
        self.own_seconds += time.process_time() - began
        return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--width", type=int, default=128, help="of the model's residual stream")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there as well")
    arguments = parser.parse_args()
    prepare_libraries()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder), arguments.rounds, arguments.width)
    text = json.dumps(found, indent=2)
    sys.stdout.write(text + "\n")
    if arguments.json:
        arguments.json.write_text(text + "\n")


def measured(folder: Path, rounds: int, width: int) -> dict[str, Any]:
    """Seconds of a step of both trainers, and their ratio."""
    trainers = {"grpo": Stepper(GRPOTrainer, folder, width), "pgrpo": Stepper(Timed, folder, width)}
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for turn in range(rounds + WARM_UP):
        # The one that is first in one round is second in the next.
        for name in sorted(trainers, reverse=bool(turn % 2)):
            took = trainers[name].step()
            if turn >= WARM_UP:
                seconds[name].append(took)
    own = trainers["pgrpo"].trainer.own_seconds / (rounds + WARM_UP)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "rounds": rounds,
        "seconds": {name: round(value, 5) for name, value in medians.items()},
        "ratio": round(medians["pgrpo"] / medians["grpo"], 4),
        "ratio_interval": [round(bound, 4) for bound in interval(seconds)],
        "advantages": round(own / medians["pgrpo"], 5),
        "step": f"{PROMPTS} prompts x {GENERATIONS} completions x {COMPLETION} tokens",
        "torch_threads": torch.get_num_threads(),
    }


class Stepper:
    """One trainer, a step at a time: the work of TRL's loop without the loop."""

    def __init__(self, kind: Any, folder: Path, width: int) -> None:
        torch.manual_seed(0)
        tokenizer = random_tokenizer()
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=width, intermediate_size=3 * width, num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=512,
            pad_token_id=1, eos_token_id=1,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
        rows = [{"prompt": f"question {i} " * 6, "preference_group": f"group {i % 5}"} for i in range(64)]
        self.trainer = kind(
            model=model,
            reward_funcs=vowels,
            args=GRPOConfig(
                str(folder), use_cpu=True, bf16=False, report_to="none", disable_tqdm=True,
                per_device_train_batch_size=PROMPTS * GENERATIONS, num_generations=GENERATIONS,
                max_completion_length=COMPLETION, generation_kwargs={"min_new_tokens": COMPLETION},
                gradient_checkpointing=False, save_strategy="no", logging_strategy="no",
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )  # fmt: skip
        self.trainer.remove_callback(PrinterCallback)
        self.trainer.create_optimizer()
        self.trainer.current_gradient_accumulation_steps = 1
        self.trainer.model.train()
        self._batches = iter(self.trainer.get_train_dataloader())

    def step(self) -> float:
        """Seconds of generating, scoring and one update."""
        batch = next(self._batches, None)
        if batch is None:
            self._batches = iter(self.trainer.get_train_dataloader())
            batch = next(self._batches)
        began = time.process_time()
        self.trainer.training_step(self.trainer.model, batch, None)
        self.trainer.optimizer.step()
        self.trainer.optimizer.zero_grad()
        self.trainer.state.global_step += 1
        return time.process_time() - began


def vowels(completions: list[str], **_: Any) -> list[float]:
    """A reward that costs nothing."""
    return [sum(letter in "aeiou" for letter in text) / (len(text) + 1) for text in completions]


def interval(seconds: dict[str, list[float]], draws: int = 2000) -> tuple[float, float]:
    """Of the ratio of medians, over rounds: 95 %."""
    random, count = Random(0), len(seconds["grpo"])
    ratios = []
    for _ in range(draws):
        chosen = random.choices(range(count), k=count)
        medians = {name: statistics.median(values[i] for i in chosen) for name, values in seconds.items()}
        ratios.append(medians["pgrpo"] / medians["grpo"])
    ratios.sort()
    return ratios[draws // 40], ratios[-draws // 40]


if __name__ == "__main__":
    main()
