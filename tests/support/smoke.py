"""Runs of recipes/smoke.yaml, in a process of their own or in this one, and what they leave behind."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

SMOKE = Path(__file__).parents[2] / "recipes" / "smoke.yaml"

TIMES = ("seconds", "tokens_per_second")
"""Keys of metrics.jsonl that differ between runs of one recipe."""


def start(run_dir: Path, *options: str) -> subprocess.Popen[str]:
    """`pgrpo train` on the smoke recipe in a process of its own."""
    command = [sys.executable, "-m", "pgrpo_cli", "train", str(SMOKE), "--run-dir", str(run_dir), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def settings(**values: Any) -> list[str]:
    """`--set` options; train__steps=4 is train.steps=4."""
    return [word for key, value in values.items() for word in ("--set", f"{key.replace('__', '.')}={value}")]


def wait_for_steps(process: subprocess.Popen[str], steps: int) -> list[str]:
    """Read the process's messages until it has finished `steps` steps, or has ended."""
    assert process.stderr is not None
    seen: list[str] = []
    for line in process.stderr:
        seen.append(line)
        steps -= line.startswith("step ")
        if steps == 0:
            break
    return seen


def remains(run_dir: Path) -> dict[str, Any]:
    """All that a finished run holds and that interruptions must not change: all but times."""
    with closing(sqlite3.connect(run_dir / "history.sqlite")) as db:
        tables = {
            name: db.execute(f"SELECT * FROM {name}").fetchall()
            for name in ("completions", "preference_groups")
        }
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    metrics = [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]
    newest = max((run_dir / "checkpoints").glob("step-??????"))
    checkpoint = {path.name: path.read_bytes() for path in newest.iterdir() if path.is_file()}
    adapter = (run_dir / "adapter" / "adapter_model.safetensors").read_bytes()
    return {"adapter": adapter, "metrics": metrics, "checkpoint": checkpoint, "newest": newest.name, **tables}
