"""The reward history of a million preference groups: updates a second, bytes, saving and loading.

    python benchmarks/history.py --json history.json
    python benchmarks/history.py --kinds cumulative --groups 100000

An update is one reward that enters the history through `RewardHistory.update`; ids look like user-0123456.
Each kind of history runs in a process of its own, on one thread. Updates are counted by processor time, files
by the clock. `resident` is what the process has grown by, `resident, trimmed` the same without memory that
the allocator keeps though it is free. Saving and loading are
those of a checkpoint, with an adapter of a few kilobytes in it, checksums and flushes to the disk.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice, repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from rich.console import Console
from rich.table import Table

from pgrpo_cli.algo.history import HistoryKind, RewardHistory
from pgrpo_cli.cli.libraries import prepare_libraries

ROOT = Path(__file__).resolve().parent.parent
KINDS: dict[HistoryKind, dict[str, Any]] = {
    "cumulative": {},
    "ema": {"decay": 0.99},
    "window": {"window": 16},
}
NUM_GENERATIONS = 8
BIG_BATCH, STEP_BATCH = 8192, 8
"""Prompts of an update: as many as fit the processor's caches, and those of a step of training."""

ROWS = [
    # Name in the results, words, unit, target of the default kind.
    ("updates_new", f"{BIG_BATCH} prompts x {NUM_GENERATIONS}, groups new", "M updates/s", ">= 0.5"),
    ("updates_known", f"{BIG_BATCH} prompts x {NUM_GENERATIONS}, groups known", "M updates/s", ">= 0.5"),
    ("updates_step", f"{STEP_BATCH} prompts x {NUM_GENERATIONS}, groups known", "M updates/s", ""),
    ("step_update_us", "  of which one call of update takes", "us", ""),
    ("step_stats_us", "  and one of stats, for its groups", "us", ""),
    ("bytes_numbers", "numbers", "bytes/group", ""),
    ("bytes_resident_trimmed", "resident, trimmed", "bytes/group", "<= 300"),
    ("bytes_resident", "resident", "bytes/group", ""),
    ("save_seconds", "save", "s", "< 5"),
    ("load_seconds", "load", "s", "< 5"),
    ("file_mb", "files", "MB", ""),
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--groups", type=int, default=1_000_000, help="preference groups (default 1000000)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    arguments = parser.parse_args()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        numbers = pool.map(measure, arguments.kinds, repeat(arguments.groups))
        found = dict(zip(arguments.kinds, numbers, strict=True))
    Console(width=120).print(as_table(found, arguments.groups))
    if arguments.json:
        settings = {"groups": arguments.groups, **{str(kind): value for kind, value in KINDS.items()}}
        result = {"kinds": found, "settings": settings, "machine": machine()}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


def measure(kind: HistoryKind, groups: int) -> dict[str, float]:
    """All numbers of a kind of history, in a process that has done nothing else."""
    torch.set_num_threads(1)
    warm_up = RewardHistory(kind, **KINDS[kind])
    for names, step in islice(batches(groups, BIG_BATCH), 3):
        enter(warm_up, names, step)
    del warm_up, names
    before, before_trimmed = resident(), resident(trim=True)

    history = RewardHistory(kind, **KINDS[kind])
    found = {"updates_new": rate(history, groups, start=0)}
    after, after_trimmed = resident(), resident(trim=True)
    found["updates_known"] = rate(history, groups, start=groups)
    numbers = [column.nbytes for name, column in history.state_dict()["columns"].items() if "_id" not in name]
    found |= {
        "bytes_numbers": sum(numbers) / groups,
        "bytes_resident_trimmed": (after_trimmed - before_trimmed) / groups,
        "bytes_resident": (after - before) / groups,
    }
    return {**found, **steps(history, groups), **files(history)}


def batches(groups: int, prompts: int, start: int = 0) -> Iterator[tuple[list[str], int]]:
    """Preference groups of completions, each group once in an order of chance, and steps.

    Steps are numbered as if a run had `STEP_BATCH` prompts a step and `start` prompts lay behind it.
    """
    order = torch.randperm(groups, generator=torch.Generator().manual_seed(start))
    for first in range(0, groups, prompts):
        ids = [f"user-{i:07d}" for i in order[first : first + prompts].tolist()]
        yield [name for name in ids for _ in range(NUM_GENERATIONS)], 1 + (start + first) // STEP_BATCH


def enter(history: RewardHistory, names: list[str], step: int) -> float:
    """One update; seconds of processor time."""
    rewards = torch.rand(len(names), dtype=torch.float64)
    begun = time.process_time()
    history.update(rewards, names, num_generations=NUM_GENERATIONS, step=step)
    return time.process_time() - begun


def rate(history: RewardHistory, groups: int, start: int) -> float:
    """Million updates a second, every preference group in turn."""
    seconds = sum(enter(history, names, step) for names, step in batches(groups, BIG_BATCH, start))
    return groups * NUM_GENERATIONS / seconds / 1e6


def steps(history: RewardHistory, groups: int, calls: int = 2000) -> dict[str, float]:
    """Calls of the size of a training step: bounded by what a call costs, not by the rewards."""
    update_seconds = stats_seconds = 0.0
    for names, step in islice(batches(groups, STEP_BATCH, 2 * groups), calls):
        update_seconds += enter(history, names, step)
        begun = time.process_time()
        history.stats(names)
        stats_seconds += time.process_time() - begun
    rewards = calls * STEP_BATCH * NUM_GENERATIONS
    return {
        "updates_step": rewards / update_seconds / 1e6,
        "step_update_us": update_seconds / calls * 1e6,
        "step_stats_us": stats_seconds / calls * 1e6,
    }


def files(history: RewardHistory) -> dict[str, float]:
    """A checkpoint and back."""
    prepare_libraries()
    from pgrpo_cli.histories import RewardHistories
    from pgrpo_cli.model.load.from_recipe import load_policy
    from pgrpo_cli.model.update.optimizer import build_optimizer
    from pgrpo_cli.recipe.load import load_recipe
    from pgrpo_cli.state.checkpoint import latest_checkpoint, save_checkpoint
    from pgrpo_cli.state.run import RunDirectory
    from pgrpo_cli.training import training_state

    recipe = load_recipe(ROOT / "recipes" / "smoke.yaml")
    policy = load_policy(recipe, recipe_dir=ROOT / "recipes")
    optimizer = build_optimizer(policy, recipe.train)
    histories = RewardHistories(recipe.advantage, recipe.history)
    histories.history = history
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(Path(folder))
        begun = time.perf_counter()
        path = save_checkpoint(run, 1, training_state(policy, optimizer, histories), keep=1)
        saved = time.perf_counter()
        checkpoint, _ = latest_checkpoint(run)
        assert checkpoint is not None
        restored = RewardHistory.from_state_dict(checkpoint.history_state())
        loaded = time.perf_counter()
        size = sum(file.stat().st_size for file in path.glob("history.*"))
    ours, theirs = history.state_dict()["columns"], restored.state_dict()["columns"]
    if not all(torch.equal(ours[name], theirs[name]) for name in ours):
        raise SystemExit("the restored history differs from the saved one")
    return {"save_seconds": saved - begun, "load_seconds": loaded - saved, "file_mb": size / 1e6}


def resident(*, trim: bool = False) -> int:
    """Bytes of this process in memory; `trim` returns free ones to the system first, with glibc."""
    gc.collect()
    if trim and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def as_table(found: dict[str, dict[str, float]], groups: int) -> Table:
    """A line a number, a column a kind."""
    table = Table(f"{groups:,} preference groups", "", box=None)
    for heading in ("target", *found):
        table.add_column(heading, justify="right")
    for name, words, unit, target in ROWS:
        table.add_row(words, unit, target, *(f"{numbers[name]:.3g}" for numbers in found.values()))
    return table


def machine() -> dict[str, Any]:
    """What the numbers depend on besides the code."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {"processor": next(iter(names), platform.processor()), **versions}


if __name__ == "__main__":
    main()
