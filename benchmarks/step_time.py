"""A training step of this project beside the same step of TRL's GRPOTrainer: seconds, peak memory, ratios.

    python benchmarks/step_time.py --json step_time.json
    python benchmarks/step_time.py --shapes profile --beta 0
    python benchmarks/step_time.py --shapes short --beta 0 --dtype bfloat16

Each side of each shape runs in a process of its own, one after the other, on the same model, prompts, number
and forced length of completions, LoRA, dtype, beta and cut into micro-batches. Seconds are the median of the
timed steps; peak memory is counted from the first step on (resident on a CPU, allocated on a GPU). A side
that dies, for instance where memory runs out, is recorded as `failed`; the file is written after every shape.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.processes import FAILED, keep, measured_by
from benchmarks.shapes import SHAPES

SIDES = Path(__file__).with_name("sides.py")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cuda = torch.cuda.is_available()
    usual = ["short", "profile", *(["qlora-1.7b", "qlora-8b"] if cuda else [])]
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=usual)
    parser.add_argument("--beta", nargs="+", type=float, default=[0.0, 0.04], metavar="B")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="for both sides")
    parser.add_argument("--steps", type=int, default=3, help="timed steps, after a warm-up (default 3)")
    parser.add_argument("--sides", nargs="+", choices=["ours", "trl"], default=["ours", "trl"])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    arguments = parser.parse_args()

    console = Console()
    shapes: dict[str, dict[str, Any]] = {}
    for beta in arguments.beta:
        for name in arguments.shapes:
            if SHAPES[name].needs_cuda and not cuda:
                parser.error(f"shape {name} needs a CUDA device")
            sides = {
                side: measure(side, name, beta, arguments.steps, dtype=arguments.dtype)
                for side in arguments.sides
            }
            key = name if beta == arguments.beta[0] else f"{name}-beta-{beta:g}"
            shapes[key] = {"beta": beta, **sides, **ratios(sides), "shape": asdict(SHAPES[name])}
            console.print(f"{key}: {json.dumps(sides)}", soft_wrap=True)
            settings = {"steps": arguments.steps, "dtype": arguments.dtype}
            keep(arguments.json, {"shapes": shapes, "machine": machine(), "settings": settings})
    console.print(as_table(shapes))


def measure(side: str, shape: str, beta: float, steps: int, **others: str | None) -> dict[str, Any]:
    """Median seconds of a step (and of its phases, where the side tells them) and peak memory in MB; or
    `{"failed": why}`. `others` are further fields of `sides.Settings`.
    """
    settings = {"side": side, "shape": shape, "beta": beta, "steps": steps, **others}
    command = [sys.executable, str(SIDES), json.dumps(settings)]
    found = measured_by(command)
    if FAILED in found:
        return found
    medians = {phase: statistics.median(values[1:]) for phase, values in found["seconds"].items()}
    return {
        "seconds": round(medians.pop("total"), 3),
        "peak_mb": round(found["peak_mb"]),
        **({"phases": {phase: round(value, 3) for phase, value in medians.items()}} if medians else {}),
        "all_seconds": [round(value, 3) for value in found["seconds"]["total"]],
    }


def ratios(sides: dict[str, dict[str, Any]]) -> dict[str, float]:
    """TRL's seconds over ours, and our peak memory over TRL's; none unless both sides were measured."""
    if set(sides) != {"ours", "trl"} or any(FAILED in found for found in sides.values()):
        return {}
    ours, trl = sides["ours"], sides["trl"]
    return {
        "speedup": round(trl["seconds"] / ours["seconds"], 2),
        "memory_ratio": round(ours["peak_mb"] / trl["peak_mb"], 3),
    }


def as_table(shapes: dict[str, dict[str, Any]]) -> Table:
    """One line a shape."""
    table = Table("shape", box=None)
    for heading in ("beta", "ours s", "TRL s", "speed-up", "ours MB", "TRL MB", "memory"):
        table.add_column(heading, justify="right")
    for name, shape in shapes.items():
        ours, trl = shape.get("ours", {}), shape.get("trl", {})
        seconds = [side.get("seconds", FAILED if FAILED in side else None) for side in (ours, trl)]
        cells = [shape["beta"], *seconds, shape.get("speedup")]
        cells += [ours.get("peak_mb"), trl.get("peak_mb"), shape.get("memory_ratio")]
        table.add_row(name, *map(_cell, cells))
    return table


def _cell(value: float | str | None) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:g}"


def machine() -> dict[str, Any]:
    """What the numbers depend on besides the code."""
    packages = ("torch", "transformers", "peft", "bitsandbytes", "trl")
    cuda = torch.cuda.is_available()
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "torch_threads": torch.get_num_threads(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
