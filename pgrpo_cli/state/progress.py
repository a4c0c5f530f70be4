"""What a run recorded while it trained, from its files, for learning curves."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Any

from pgrpo_cli.report.learning import Progress

from .curve import read_curve, read_prompts
from .history_store import read_curves
from .run import RunDirectory
from .runlog import read_metrics


def read_progress(run: RunDirectory) -> Progress:
    """Empty where a file is missing; nothing after a damaged line. Raises what `read_curves` raises."""
    metrics = read_metrics(run.metrics_path) if run.metrics_path.is_file() else []
    seconds = {record["step"]: _seconds(record) for record in metrics}
    return Progress(
        points=read_curves(run.history_path) if run.history_path.is_file() else [],
        held_out=_held_out(run),
        prompts=read_prompts(run),
        seconds={step: found for step, found in seconds.items() if not math.isnan(found)},
    )


def _held_out(run: RunDirectory) -> dict[int, dict[str | None, float]]:
    """By step the means of preference groups, and under None their mean, each counted once."""
    found: dict[int, dict[str | None, float]] = {}
    for step, group, mean, _ in read_curve(run):
        found.setdefault(step, {})[group] = mean
    return {step: {**means, None: fmean(means.values())} for step, means in found.items()}


def _seconds(record: dict[str, Any]) -> float:
    try:
        return float(record["seconds"]["total"])
    except (KeyError, TypeError, ValueError):
        return math.nan
