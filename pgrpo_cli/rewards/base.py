"""The protocol between the training loop and a reward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class Completion:
    """One sampled answer with what a reward may know about it.

    `prompt` is the rendered text that the model saw; `columns` are the row's further columns (JSON values).
    """

    prompt_id: str
    preference_group: str
    prompt: str
    text: str
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """What one completion is worth. `value` is in reward units; NaN means missing: it gives no signal."""

    value: float
    parts: Mapping[str, float]


@runtime_checkable
class RewardFunction(Protocol):
    """Scores completions, in order. `parts` are the names it records; `value_range` bounds it, if known."""

    @property
    def parts(self) -> tuple[str, ...]: ...

    @property
    def value_range(self) -> tuple[float, float] | None: ...

    def __call__(self, completions: Sequence[Completion]) -> Sequence[Score]: ...


@dataclass(frozen=True)
class BuildContext:
    """What a reward's factory may depend on besides its own section."""

    recipe_dir: Path
    allow_code: bool


@dataclass(frozen=True)
class TextReward:
    """A reward that is one number in [0, 1], a function of the completion's text alone."""

    score: Callable[[str], float]
    part: str = "value"

    @property
    def parts(self) -> tuple[str, ...]:
        return (self.part,)

    @property
    def value_range(self) -> tuple[float, float]:
        return (0.0, 1.0)

    def __call__(self, completions: Sequence[Completion]) -> list[Score]:
        values = [self.score(completion.text) for completion in completions]
        return [Score(value, {self.part: value}) for value in values]
