"""What two processes of torchrun do in a test: `python -m tests.support.trl_processes SCENARIO FOLDER`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def torchrun(count: int, *arguments: object, env: Mapping[str, str] | None = None) -> Any:
    """Run a Python module in `count` processes that know of each other; what they printed is returned."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    command = [sys.executable, *launcher, "-m", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def trainer_of(folder: Path, **config: Any) -> Any:
    """A trainer of which every process keeps what it gathered; N completions a step in any number of them."""
    import torch

    from tests.support.policies import tiny_policy
    from tests.support.trl_engine import PROMPTS, G, Watched, arguments, as_trl_reward, rows_of, vowels

    class Gathering(Watched):
        def gathered_scores(self, inputs: Any, rewards_N_F: Any) -> Any:
            scores_N, groups_N = super().gathered_scores(inputs, rewards_N_F)
            self.stream.append(([score.value for score in scores_N], groups_N))
            return scores_N, groups_N

    policy = tiny_policy(dtype=torch.float32)
    world = int(os.environ.get("WORLD_SIZE", 1))
    settings = {"save_strategy": "steps", "save_steps": 2, **config}
    settings["per_device_train_batch_size"] = G * len(PROMPTS) // world
    trainer = Gathering(
        model=policy.model,
        reward_funcs=as_trl_reward("vowels", vowels),
        args=arguments(folder, **settings),
        # Each process has prompts of other groups.
        train_dataset=rows_of().map(lambda _, i: {"preference_group": "aab"[i % 3]}, with_indices=True),
        processing_class=policy.tokenizer,
    )
    trainer.stream = []
    return trainer


def train(folder: Path) -> None:
    """Train, and write down what this process has seen."""
    trainer = trainer_of(folder)
    trainer.train()
    found = {
        "stream": trainer.stream,
        "advantages": trainer.seen,
        "stats": {name: vars(stats) for name, stats in trainer.history.stats().items()},
    }
    (folder / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(found))


def drift(folder: Path) -> None:
    """One process enters a reward that the others do not know of."""
    trainer = trainer_of(folder)
    if os.environ["RANK"] == "1":
        trainer.history.update([1e-9], ["a"], num_generations=1, step=0)
    trainer.train()


if __name__ == "__main__":
    scenario, place = sys.argv[1:]
    {"train": train, "drift": drift}[scenario](Path(place))
