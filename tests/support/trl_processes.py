"""What two processes of torchrun do in a test: `python -m tests.support.trl_processes SCENARIO FOLDER`."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.algo.history import RewardHistory
from tests.support.training import metrics, tables

ROOT = Path(__file__).parents[2]
LOSS_TYPES = ("grpo", "dapo", "dr_grpo")
SAFE = {"PYTHONSAFEPATH": "1"}
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node")


def torchrun(count: int, *arguments: object, env: Mapping[str, str] | None = None) -> Any:
    """Run a Python module in `count` processes that know of each other; what they printed is returned."""
    return launched(*TORCHRUN, str(count), "-m", *arguments, env=env)


def launched(*words: object, env: Mapping[str, str] | None = None) -> Any:
    """Run a module, such as a launcher, to its end; what was printed is returned."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)


def train_words(recipe: object, run: object, *options: object) -> list[str]:
    """The module and the words that train a recipe on TRL."""
    words = ["pgrpo_cli", "train", recipe, "--run-dir", run, "--set", "engine.type=trl", *options]
    return [str(word) for word in words]


def assert_whole(run: Path, steps: int, completions: int) -> None:
    """Each step once, and the history is that of one stream of the completions recorded."""
    rows = tables(run / "history.sqlite")
    assert [line["step"] for line in metrics(run)] == list(range(1, steps + 1))
    history = RewardHistory()
    for step in range(1, steps + 1):
        of_step = [row for row in rows["completions"] if row[0] == step]
        assert len(of_step) == completions
        rewards_N, groups_N = [row[5] for row in of_step], [row[4] for row in of_step]
        history.update(rewards_N, groups_N, num_generations=4, step=step)
    stored = {row[0]: row[1:4] for row in rows["preference_groups"]}
    expected = {name: (s.n, s.mean, s.std) for name, s in history.stats().items()}
    assert stored.keys() == expected.keys()
    for name, numbers in expected.items():
        assert stored[name] == pytest.approx(numbers, rel=1e-12)


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


def replayed(folder: Path, loss_type: str) -> dict[str, list[float]]:
    """Losses and gradient norms of steps whose completions are the same in any number of processes."""
    import torch

    from tests.support.policies import make_prompts, tiny_policy
    from tests.support.trl_engine import PROMPTS, STEPS, G, Watched, arguments, as_trl_reward, rows_of, vowels

    step = iter(range(STEPS))

    def replay(prompts: Any, trainer: Any) -> dict[str, Any]:
        number, known = next(step), {prompt.prompt_id: prompt for prompt in make_prompts(PROMPTS)}
        completion_ids = []
        for place, name in enumerate(prompts):
            draw = random.Random(f"{number} {name} {place % G}")
            completion_ids.append([draw.randrange(3, 60) for _ in range(draw.randrange(2, 12))])
        prompt_ids = [list(known[name].input_ids) for name in prompts]
        return {"prompt_ids": prompt_ids, "completion_ids": completion_ids, "logprobs": None}

    policy = tiny_policy(dtype=torch.float32)
    count = G * len(PROMPTS) // int(os.environ.get("WORLD_SIZE", 1))
    trainer = Watched(
        model=policy.model,
        reward_funcs=as_trl_reward("vowels", vowels),
        args=arguments(folder, per_device_train_batch_size=count, loss_type=loss_type),
        train_dataset=rows_of(),
        processing_class=policy.tokenizer,
        rollout_func=replay,
    )
    trainer.train()
    logs = [log for log in trainer.state.log_history if "grad_norm" in log]
    return {name: [log[name] for log in logs] for name in ("loss", "grad_norm")}


def replay(folder: Path) -> None:
    """Those of all aggregations."""
    found = {loss_type: replayed(folder, loss_type) for loss_type in LOSS_TYPES}
    (folder / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(found))


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
    {"train": train, "drift": drift, "replay": replay}[scenario](Path(place))
