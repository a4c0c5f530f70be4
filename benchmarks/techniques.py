"""What each technique brings: our side of the step benchmark without it, one at a time.

    python benchmarks/techniques.py --shapes short profile --json techniques.json

Each line is a run in a process of its own in which one technique is switched off; ratios are that run over
the one with everything: above 1 the technique saves time, or memory.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.processes import FAILED, keep
from benchmarks.shapes import SHAPES


def _plain_rollout_weights() -> None:
    from pgrpo_cli.model.rollout import sample

    sample.rollout_weights = lambda policy, num_rows: nullcontext()  # type: ignore[assignment,misc]


def _weights_as_stored() -> None:
    from pgrpo_cli.model.rollout import cpu_weights

    cpu_weights._lays_out = lambda dtype: False


def _allocator_as_it_is() -> None:
    from pgrpo_cli.model.load import from_recipe

    from_recipe.keep_freed_memory = lambda: False


def _pefts_forward() -> None:
    from pgrpo_cli.model.load import from_recipe

    from_recipe.use_adapted_linears = lambda model: None


def _prefill_each_completion() -> None:
    _paths(shared_prefix=False)


def _row_each_completion() -> None:
    _paths(packed=False)


def _attention_over_whole_rows() -> None:
    from pgrpo_cli.model.update import packing

    packing.blocks_of = lambda segments_R_L: []


def _paths(**changes: Any) -> None:
    from dataclasses import replace

    from pgrpo_cli.model.load import from_recipe

    measured = from_recipe.probe

    def changed(policy: Any, *, seed: int = 0) -> Any:
        return replace(measured(policy, seed=seed), **changes)

    from_recipe.probe = changed


def _whole_logits() -> None:
    from pgrpo_cli.model.policy import HEAD_CHUNK

    HEAD_CHUNK.update(dict.fromkeys(HEAD_CHUNK, 1 << 30))


TECHNIQUES: dict[str, Callable[[], None]] = {
    "shared prefix (rollout)": _prefill_each_completion,
    "packed rows (training)": _row_each_completion,
    "attention in blocks": _attention_over_whole_rows,
    "logits in chunks": _whole_logits,
    "adapter and layer in one": _pefts_forward,
    "plain weights in rollouts": _plain_rollout_weights,
    "weights laid out for few rows": _weights_as_stored,
    "freed memory kept": _allocator_as_it_is,
}
"""Name -> what switches it off."""


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    from benchmarks.step_time import machine, measure

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["short", "profile"])
    parser.add_argument("--steps", type=int, default=2, help="timed steps, after a warm-up (default 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    arguments = parser.parse_args()

    console = Console()
    table = Table("shape", "without", box=None)
    for heading in ("s", "time ratio", "MB", "memory ratio"):
        table.add_column(heading, justify="right")
    shapes = {}
    for name in arguments.shapes:
        whole = measure("ours", name, 0.0, arguments.steps)
        shapes[name] = {"": whole}
        if FAILED in whole:
            console.print(f"{name}: {whole[FAILED]}; the techniques are not tried", soft_wrap=True)
            continue
        table.add_row(name, "-", f"{whole['seconds']:g}", "1", f"{whole['peak_mb']:g}", "1")
        for technique in TECHNIQUES:
            found = measure("ours", name, 0.0, arguments.steps, without=technique)
            console.print(f"{name} without {technique}: {json.dumps(found)}", soft_wrap=True)
            if FAILED in found:
                shapes[name][technique] = found
                table.add_row(name, technique, FAILED)
                continue
            ratios = {of: round(found[of] / whole[of], 2) for of in ("seconds", "peak_mb")}
            shapes[name][technique] = {**found, "ratios": ratios}
            keep(arguments.json, {"shapes": shapes, "machine": machine()})
            table.add_row(
                name,
                technique,
                f"{found['seconds']:g}",
                f"{ratios['seconds']:g}",
                f"{found['peak_mb']:g}",
                f"{ratios['peak_mb']:g}",
            )
    console.print(table)
    keep(arguments.json, {"shapes": shapes, "machine": machine()})


if __name__ == "__main__":
    main()
