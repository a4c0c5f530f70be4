"""Which step of a run is the best one by its held-out curve: `train.keep_best` and `train.stop_after`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pgrpo_cli.errors import CheckpointError, RunError
from pgrpo_cli.recipe.training import TrainSection
from pgrpo_cli.stats.intervals import ROUNDING

from .adapter import Adapter, read_adapter
from .checkpoint import checkpoint_at
from .curve import curve_records
from .run import RunDirectory

BY_KEEP_BEST = "(train.keep_best)"
"""What notes about the choice of an adapter hold, and no others."""

Measure = Literal["macro", "worst_group"]


@dataclass(frozen=True)
class Best:
    """The evaluations of a run by one measure. It reads the curve each time, which is short.

    - `macro`: the mean over preference groups of their held-out rewards;
    - `worst_group`: the smallest gain of a preference group since the first evaluation, over the standard
      deviation of its prompts' means in that evaluation, or 1 if there is none.

    An evaluation without rewards does not count, and is not the first one. Others are compared only if they
    have rewards of the same preference groups: of all that any of them has for `macro`, of those of the first
    evaluation for `worst_group`. The rest does not count.
    """

    run: RunDirectory
    measure: Measure
    stop_after: int | None = None

    @classmethod
    def of(cls, run: RunDirectory, train: TrainSection) -> Best | None:
        """What the recipe asks for; None if it keeps the last step."""
        return None if train.keep_best is None else cls(run, train.keep_best, train.stop_after)

    def values(self) -> dict[int, float]:
        """The measure after each step whose evaluation counts, in order."""
        records = [record for record in curve_records(self.run) if record["groups"]]
        measured = records if self.measure == "macro" else records[:1]
        needed = {group for record in measured for group in record["groups"]}
        return {
            record["step"]: self._value(record, records[0])
            for record in records
            if needed <= record["groups"].keys()
        }

    def step(self) -> int | None:
        """The step with the highest measure, the first of several; None before a step was evaluated. The
        evaluation before the first step does not count, since nothing is trained there.
        """
        trained = {step: value for step, value in self.values().items() if step > 0}
        return max(trained, key=trained.__getitem__) if trained else None

    def exhausted(self) -> bool:
        """Whether the last `stop_after` evaluations were no better than the best one before them, which may
        be the one before the first step.
        """
        values = list(self.values().values())
        return self.stop_after is not None and len(values) - 1 - _first_of_highest(values) >= self.stop_after

    def adapter(self, last: Adapter, done: int) -> tuple[Adapter, int, str]:
        """The adapter of the best step, that step, and a sentence about it. `last` is the adapter after the
        step `done`, which is taken if nothing was evaluated, or the checkpoint of the best step is gone.
        """
        values, best = self.values(), self.step()
        if best is None:
            why = "no step was evaluated with rewards of every preference group"
            return last, done, f"{why}, so the adapter is that of the last one"
        adapter = last
        if best != done:
            try:
                found = checkpoint_at(self.run, best)
                with found.readable():
                    adapter = read_adapter(found.path)
            except (RunError, CheckpointError) as error:
                return last, done, f"the adapter is that of the last step, since {error.message}"
        sentence = f"the adapter is that of step {best}, {self._best_of(values)}"
        if values[best] <= values.get(0, -math.inf):
            sentence += ", although none was better than that before the first step"
        evaluated = len(curve_records(self.run))
        if left_out := evaluated - len(values):
            sentence += f"; {left_out} of {evaluated} do not count, since a preference group has no rewards"
        return adapter, best, sentence

    def notes(self, step: int) -> list[str]:
        """What a reader of an evaluation of the finished adapter, of that step, needs to know; nothing if the
        step was not chosen among several.
        """
        values = self.values()
        if step != self.step() or sum(step > 0 for step in values) < 2:
            return []
        return [
            f"The held-out prompts have chosen this adapter, {self._best_of(values)} {BY_KEEP_BEST}. So its "
            "rewards on the same prompts are too high by chance, and so are its differences."
        ]

    def _best_of(self, values: Mapping[int, float]) -> str:
        return f"the best of {sum(step > 0 for step in values)} evaluations by {self.measure}"

    def _value(self, record: Mapping[str, Any], first: Mapping[str, Any]) -> float:
        if self.measure == "macro":
            return -math.inf if record.get("macro") is None else float(record["macro"])
        gains = [
            (numbers["mean"] - first["groups"][group]["mean"]) / _spread(first["groups"][group])
            for group, numbers in record["groups"].items()
            if group in first["groups"]
        ]
        return min(gains)


def _first_of_highest(values: list[float]) -> int:
    return max(range(len(values)), key=values.__getitem__, default=-1)


def _spread(group: Mapping[str, Any]) -> float:
    """The standard deviation of the means of a preference group's prompts; 1 if there is none."""
    means = list(group.get("prompts", {}).values())
    spread = statistics.stdev(means) if len(means) > 1 else 0.0
    return spread if spread > ROUNDING else 1.0
