"""Learning curves: what a run recorded during training.

eval/curve.jsonl has the reward of the tuned model on held-out prompts, one line per `eval.every` steps.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from pgrpo_cli.stats.estimates import PromptValues, prompt_values
from pgrpo_cli.stats.learning import TrainingRecord
from pgrpo_cli.stats.result_types import CurvePoint, EvalRow

from .files import explained
from .history_store import read_curves
from .run import RunDirectory
from .runlog import RunLog, numeric, read_metrics


def curve_path(run: RunDirectory) -> Path:
    """The path of the curve."""
    return run.eval_dir / "curve.jsonl"


def curve_record(step: int, rows: Sequence[EvalRow]) -> dict[str, Any]:
    """The line of a step: the mean reward of each prompt and each preference group, and the macro mean."""
    groups: dict[str, dict[str, Any]] = {
        group: {"n": len(prompts), "mean": math.fsum(prompts.values()) / len(prompts), "prompts": prompts}
        for group, prompts in sorted(prompt_values(rows, "tuned").items())
        if prompts
    }
    means = [numbers["mean"] for numbers in groups.values()]
    return {"step": step, "macro": statistics.fmean(means) if means else None, "groups": groups}


def append_record(run: RunDirectory, record: Mapping[str, Any]) -> None:
    """Append a line and wait until it is on disk. Raises CheckpointError if writing fails."""
    run.require_lock()
    path = curve_path(run)
    with explained(str(path)):
        path.parent.mkdir(exist_ok=True)
    RunLog(path).append(record)


def rewind_curve(run: RunDirectory, step: int, due: Callable[[int], bool] = lambda step: True) -> set[int]:
    """Delete the lines after `step`, from an invalid one on, and of steps that are not `due`; returns the
    remaining steps.
    """
    run.require_lock()
    with explained(str(run.eval_dir)):
        for leftover in run.eval_dir.glob(".curve.jsonl.*.tmp"):
            leftover.unlink()
    return RunLog(curve_path(run)).rewind(step, _is_curve_record, due)


def read_curve(run: RunDirectory) -> list[CurvePoint]:
    """(step, preference group, mean reward, number of prompts), in order of steps; empty without a curve."""
    return [
        (record["step"], group, numbers["mean"], numbers["n"])
        for record in curve_records(run)
        for group, numbers in record["groups"].items()
    ]


def read_prompts(run: RunDirectory) -> dict[int, PromptValues]:
    """For each step, the mean reward of each prompt by preference group. Empty if there is no curve, or if it
    has no values by prompt.
    """
    records = curve_records(run)
    if not all("prompts" in numbers for record in records for numbers in record["groups"].values()):
        return {}
    return {
        record["step"]: {group: numbers["prompts"] for group, numbers in record["groups"].items()}
        for record in records
    }


def training_record(run: RunDirectory) -> TrainingRecord:
    """The training record of a run. Missing files give empty fields; lines after a damaged one are ignored.
    Raises the same errors as `read_curves`.
    """
    metrics = read_metrics(run.metrics_path) if run.metrics_path.is_file() else []
    seconds = {record["step"]: _seconds(record) for record in metrics}
    return TrainingRecord(
        points=read_curves(run.history_path) if run.history_path.is_file() else [],
        held_out=_held_out(run),
        prompts=read_prompts(run),
        seconds={step: value for step, value in seconds.items() if not math.isnan(value)},
    )


def curve_records(run: RunDirectory) -> list[dict[str, Any]]:
    """The lines of the curve, up to the first invalid one."""
    path = curve_path(run)
    return list(takewhile(_is_curve_record, read_metrics(path))) if path.is_file() else []


def _is_curve_record(record: Mapping[str, Any]) -> bool:
    groups = record.get("groups")
    return (
        numeric(record)
        and isinstance(record.get("macro"), int | float | None)
        and isinstance(groups, dict)
        and all(map(_is_group, groups.values()))
    )


def _is_group(numbers: Any) -> bool:
    if not isinstance(numbers, dict) or not isinstance(numbers.get("prompts", {}), dict):
        return False
    means = (numbers.get("mean"), *numbers.get("prompts", {}).values())
    n = numbers.get("n")
    return isinstance(n, int) and n > 0 and all(isinstance(mean, int | float) for mean in means)


def _held_out(run: RunDirectory) -> dict[int, dict[str, float]]:
    """For each step the means of preference groups."""
    by_step: dict[int, dict[str, float]] = {}
    for step, group, mean, _ in read_curve(run):
        by_step.setdefault(step, {})[group] = mean
    return by_step


def _seconds(record: dict[str, Any]) -> float:
    """Those of the step itself: how often a run evaluates is not its speed."""
    try:
        return float(record["seconds"]["total"]) - float(record["seconds"].get("evaluation", 0))
    except (KeyError, TypeError, ValueError):
        return math.nan
