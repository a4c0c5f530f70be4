"""metrics.jsonl, a line a step, and the optional trackers that get the same numbers."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pgrpo_cli.errors import RecipeError
from pgrpo_cli.recipe.training import LogSection

from .files import atomic_write, explained


class Tracker(Protocol):
    """Where numbers go besides metrics.jsonl."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Take the flat numbers of one step."""

    def close(self) -> None:
        """Flush what is buffered."""


class RunLog:
    """The writer of metrics.jsonl. Nested dictionaries reach the trackers with keys joined by `/`."""

    def __init__(self, path: Path, trackers: Sequence[Tracker] = ()) -> None:
        self._path = path
        self._trackers = trackers

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line; `record` has the key `step`."""
        with explained(str(self._path)), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
        for tracker in self._trackers:
            tracker.log(record["step"], flatten(record))

    def rewind(self, step: int) -> None:
        """Drop the lines after `step`, and a last line that a kill cut short."""
        if not self._path.exists():
            return
        kept = [record for record in read_metrics(self._path) if record["step"] <= step]
        with explained(str(self._path)):
            lines = (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in kept)
            atomic_write(self._path, "".join(lines))

    def close(self) -> None:
        """Close the trackers."""
        for tracker in self._trackers:
            tracker.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl, without a last line that is cut short."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def flatten(record: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Numbers only, nested keys joined by `/`."""
    flat: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}/"))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[f"{prefix}{key}"] = float(value)
    return flat


def open_trackers(section: LogSection, run_path: Path, settings: Mapping[str, Any]) -> list[Tracker]:
    """The trackers that the recipe names. Raises RecipeError if the package of one is missing."""
    trackers: list[Tracker] = []
    for name in section.trackers:
        trackers.append(_TRACKERS[name](section, run_path, settings))
    return trackers


class _TensorBoard:
    def __init__(self, section: LogSection, run_path: Path, settings: Mapping[str, Any]) -> None:
        self._writer = _require("tensorboard", "torch.utils.tensorboard").SummaryWriter(
            str(run_path / "tensorboard")
        )

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        for key, value in numbers.items():
            self._writer.add_scalar(key, value, step)

    def close(self) -> None:
        self._writer.close()


class _WandbLike:
    """wandb, and trackio, which has the same interface."""

    module = "wandb"

    def __init__(self, section: LogSection, run_path: Path, settings: Mapping[str, Any]) -> None:
        self._module = _require(self.module, self.module)
        self._run = self._module.init(project=section.project, name=run_path.name, config=dict(settings))

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


class _Trackio(_WandbLike):
    module = "trackio"


_TRACKERS: dict[str, Any] = {"tensorboard": _TensorBoard, "wandb": _WandbLike, "trackio": _Trackio}


def _require(package: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RecipeError(
            f"log.trackers names {package!r}, which is not installed", remedy=f"pip install {package}"
        ) from error
