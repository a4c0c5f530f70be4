"""metrics.jsonl, with one line per step, and the optional trackers that receive the same numbers."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

from pgrpo_cli.data.strict_json import parse_json
from pgrpo_cli.errors import RecipeError
from pgrpo_cli.recipe.training import LogSection

from .files import atomic_write, explained

_LARGEST = 1e300
"""No number of a run comes near it; whole ones beyond would be no floating-point numbers."""


class Tracker(Protocol):
    """Where numbers go besides metrics.jsonl."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Take the flat numbers of one step."""

    def close(self) -> None:
        """Flush what is buffered."""


class RunLog:
    """The writer of metrics.jsonl; nested dictionaries reach the trackers with keys joined by `/`.

    Use as a context manager: it closes the trackers.
    """

    def __init__(self, path: Path, trackers: Sequence[Tracker] = ()) -> None:
        self._path = path
        self._trackers = trackers

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the trackers."""
        for tracker in self._trackers:
            tracker.close()

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line; `record` has the key `step`."""
        with explained(str(self._path)), self._path.open("ab") as file:
            file.write(_line(record))
            file.flush()
            os.fsync(file.fileno())
        for tracker in self._trackers:
            tracker.log(record["step"], flatten(record))

    def rewind(
        self,
        step: int,
        valid: Callable[[Mapping[str, Any]], bool] = lambda record: True,
        due: Callable[[int], bool] = lambda step: True,
    ) -> set[int]:
        """Drop the lines after `step`, those of steps that are not `due`, and all lines from one that is not
        `valid` or that a kill cut short; returns the steps left.
        """
        if not self._path.exists():
            return set()
        found = takewhile(lambda found: valid(found[1]), _lines(self._path))
        steps = ((record["step"], line) for line, record in found)
        kept = [(of_line, line) for of_line, line in steps if of_line <= step and due(of_line)]
        with explained(str(self._path)):
            atomic_write(self._path, b"".join(line + b"\n" for _, line in kept))
        return {of_line for of_line, _ in kept}


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl up to the first line that is none, such as one that a kill cut short.

    Whatever a record holds, and what that holds, is a number or null.
    """
    return [record for _, record in takewhile(lambda found: numeric(found[1]), _lines(path))]


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each line with its record, up to the first that is no record of a step."""
    for line in path.read_bytes().split(b"\n"):
        try:
            record = parse_json(line)
            if type(record["step"]) is not int:
                return
        except (ValueError, TypeError, KeyError):
            return
        yield line, record


def numeric(value: Any) -> bool:
    """Whether a value, and whatever it holds, is a number or null."""
    if isinstance(value, dict):
        return all(map(numeric, value.values()))
    return value is None or (isinstance(value, int | float) and abs(value) < _LARGEST)


def flatten(record: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Numbers only, nested keys joined by `/`."""
    flat: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}/"))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[f"{prefix}{key}"] = float(value)
    return flat


def open_trackers(
    section: LogSection, run_path: Path, settings: Mapping[str, Any], *, first_step: int = 1
) -> list[Tracker]:
    """The trackers that the recipe names, to be fed from `first_step` on.

    Raises RecipeError if the package of one is missing.
    """
    return [_TRACKERS[name](section, run_path, settings, first_step) for name in section.trackers]


class _TensorBoard:
    def __init__(
        self, section: LogSection, run_path: Path, settings: Mapping[str, Any], first_step: int
    ) -> None:
        writer = _require("tensorboard", "torch.utils.tensorboard").SummaryWriter
        # What a killed process logged from `first_step` on comes again.
        self._writer = writer(str(run_path / "tensorboard"), purge_step=first_step)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        for key, value in numbers.items():
            self._writer.add_scalar(key, value, step)

    def close(self) -> None:
        self._writer.close()


class _WandbLike:
    """wandb, and trackio, which has the same interface."""

    module = "wandb"

    def __init__(
        self, section: LogSection, run_path: Path, settings: Mapping[str, Any], first_step: int
    ) -> None:
        module = _require(self.module, self.module)
        self._run = module.init(project=section.project, name=run_path.name, config=dict(settings))

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
