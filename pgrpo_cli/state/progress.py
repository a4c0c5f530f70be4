"""What a run recorded while it trained, from its files, for learning curves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from pgrpo_cli.report.learning import Progress

from .history_store import read_curves
from .run import RunDirectory
from .runlog import read_metrics


def read_progress(run: RunDirectory) -> Progress:
    """Empty where a file is missing; damaged lines are passed over. Raises what `read_curves` raises."""
    metrics = read_metrics(run.metrics_path) if run.metrics_path.is_file() else []
    seconds = {record["step"]: _seconds(record) for record in metrics}
    return Progress(
        points=read_curves(run.history_path) if run.history_path.is_file() else [],
        held_out=_held_out(run.eval_dir / "curve.jsonl"),
        seconds={step: found for step, found in seconds.items() if not math.isnan(found)},
    )


def _held_out(path: Path) -> dict[int, dict[str | None, float]]:
    """Lines {"step": 40, "groups": {name: mean}, "macro": mean}; of several of one step the last counts."""
    found: dict[int, dict[str | None, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            record = json.loads(line)
            values: dict[str | None, Any] = {**record["groups"], None: record["macro"]}
            found[int(record["step"])] = {
                group: float(value) for group, value in values.items() if value is not None
            }
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
    return found


def _seconds(record: dict[str, Any]) -> float:
    try:
        return float(record["seconds"]["total"])
    except (KeyError, TypeError, ValueError):
        return math.nan
