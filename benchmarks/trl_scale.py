"""What the reward history of a step costs with many processes and many preference groups.

    python benchmarks/trl_scale.py                                  prints the tables
    python benchmarks/trl_scale.py --write docs/performance.md      puts them there

Every process holds the whole history and computes the same, so the seconds of one process are those of all;
they are measured here on one thread, in processor time, for as many completions as that many processes
have. The bytes are those that `PGRPOTrainer` gathers: preference groups as Python objects (measured with
pickle) and rewards in float32. Seconds of a network are arithmetic: bytes over its bandwidth.
"""

from __future__ import annotations

import argparse
import pickle
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.markdown import renew, table
from pgrpo_cli.algo.advantages import compute_advantages
from pgrpo_cli.algo.history import RewardHistory
from pgrpo_cli.state.history_files import history_checksum

GENERATIONS, PER_PROCESS, REWARDS = 8, 16, 1
"""Completions of a prompt, completions of a process in a step, reward functions."""
PROCESSES = (1, 8, 64, 1024)
GROUPS = (1_000, 100_000, 1_000_000)
BANDWIDTH = 10e9
"""Bytes per second that a process receives: an ordinary cluster's 100 Gb/s, less protocol."""
REPEATS = 5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="renew the tables of that document")
    parser.add_argument("--groups", type=int, nargs="+", default=GROUPS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    text = report(arguments.groups)
    sys.stdout.write(text + "\n")
    if arguments.write:
        renew(arguments.write, "trl-scale", text)


def report(groups: Sequence[int]) -> str:
    """The tables of a step and of a checkpoint."""
    steps, checkpoints = [], []
    for count in groups:
        history = filled(count)
        steps += [step_row(history, count, processes) for processes in PROCESSES]
        checkpoints.append(checkpoint_row(history, count))
    of_steps = ("preference groups", "processes", "completions", "gathered", "on the network")
    of_checkpoints = ("preference groups", "numbers", "checksum before a checkpoint")
    heading = (*of_steps, "entering the history", "advantages")
    return f"{table(heading, steps)}\n\n{table(of_checkpoints, checkpoints)}"


def filled(count: int) -> RewardHistory:
    """A history of so many preference groups, with two prompts each."""
    history, drawn = RewardHistory(), random.Random(0)
    at_once = 20_000
    for start in range(0, count, at_once):
        names = [name(i) for i in range(start, min(count, start + at_once))]
        for step in (1, 2):
            rewards = [drawn.random() for _ in range(2 * len(names))]
            history.update(rewards, [n for n in names for _ in range(2)], num_generations=2, step=step)
    return history


def name(number: int) -> str:
    return f"user-{number:07d}"


def step_row(history: RewardHistory, count: int, processes: int) -> tuple[str, ...]:
    drawn, completions = random.Random(processes), processes * PER_PROCESS
    groups = [name(drawn.randrange(count)) for _ in range(completions // GENERATIONS)]
    groups_N = [group for group in groups for _ in range(GENERATIONS)]
    rewards_N = [drawn.random() for _ in groups_N]
    # Rows of a data set have texts of their own: pickle writes each out, also where they are equal.
    own = ["".join(group) for group in groups_N[:PER_PROCESS]]
    received = processes * (len(pickle.dumps(own)) + 4 * REWARDS * PER_PROCESS)
    entering = seconds(lambda: history.update(rewards_N, groups_N, step=3, num_generations=GENERATIONS))
    advantages = seconds(
        lambda: compute_advantages(rewards_N, groups_N, history=history, num_generations=GENERATIONS)
    )
    return (
        f"{count:,}", f"{processes:,}", f"{completions:,}", f"{received / 1e3:,.1f} kB",
        f"{1e3 * received / BANDWIDTH:.3f} ms", f"{1e3 * entering:.1f} ms", f"{1e3 * advantages:.1f} ms",
    )  # fmt: skip


def checkpoint_row(history: RewardHistory, count: int) -> tuple[str, ...]:
    state = history.state_dict()
    size = sum(column.numel() * column.element_size() for column in state["columns"].values())
    took = seconds(lambda: history_checksum(history.state_dict()))
    return f"{count:,}", f"{size / 1e6:,.1f} MB", f"{1e3 * took:,.1f} ms"


def seconds(work: Callable[[], object]) -> float:
    """The median of a few repetitions."""

    def once() -> float:
        began = time.process_time()
        work()
        return time.process_time() - began

    return median(once() for _ in range(REPEATS))


if __name__ == "__main__":
    main()
