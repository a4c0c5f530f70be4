"""The command that trains a run, or continues it: by itself, or in the processes of a launcher."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from pgrpo_cli.engines.world import number_of_processes
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.state.run import RunDirectory

from .source import default_run_dir


def train_words(
    source: Path,
    run: RunDirectory,
    recipe: Recipe,
    overrides: Iterable[str],
    *,
    allow_code: bool = False,
    force: bool = False,
    allowed_hosts: Iterable[str] = (),
    device: str | None = None,
) -> list[str]:
    """The words after `pgrpo` that train `source` into `run`."""
    words = ["train", str(source)]
    if run.path not in (source, default_run_dir(recipe)):
        words += ["--run-dir", str(run.path)]
    for override in overrides:
        words += ["--set", override]
    if allow_code:
        words.append("--allow-code")
    if force:
        words.append("--force")
    for host in allowed_hosts:
        words += ["--allow-host", host]
    if device is not None:
        words += ["--device", device]
    return words


def command_of(words: Sequence[str], processes: int | None = None) -> str:
    """The command line with these words, for as many processes as this one was started with.

    `processes`: for so many on this machine. Launchers start `python -m`, which imports from the current
    folder first unless PYTHONSAFEPATH is set.
    """
    if processes is None:
        if number_of_processes() == 1:
            return shlex.join(["pgrpo", *words])
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", number_of_processes()))
    launcher = ["torchrun", "--nproc_per_node", str(processes), "-m", "pgrpo_cli"]
    return f"PYTHONSAFEPATH=1 {shlex.join([*launcher, *words])}"


def idle_sentence(count: int, words: Sequence[str], recipe: Recipe) -> str | None:
    """What to do where this process, started without a launcher, uses one of `count` GPUs; None where that
    is all.
    """
    if count < 2 or "RANK" in os.environ:
        return None
    chosen = [] if recipe.engine.type == "trl" else ["--set", "engine.type=trl"]
    return (
        f"This machine has {count} GPUs, and this run uses one. All: {command_of([*words, *chosen], count)}"
    )
