"""The protocol between the training loop and a reward, and what a reward takes from a data row."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from inspect import iscoroutine, iscoroutinefunction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pgrpo_cli.errors import RecipeError, RewardError

if TYPE_CHECKING:
    from typing_extensions import TypeIs


_MOST_COLUMNS = 30


@dataclass(frozen=True)
class Completion:
    """One sampled answer with what a reward may know about it.

    `prompt` is the rendered text that the model saw, `messages` the conversation behind it ({role, content}
    each; empty where only the text is known); `columns` are the row's further columns (JSON values), and
    `user_id` says who asked, where the source knows.
    """

    prompt_id: str
    preference_group: str
    prompt: str
    text: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    messages: Sequence[Mapping[str, str]] = ()
    user_id: str | None = None


@dataclass(frozen=True)
class Score:
    """What one completion is worth. `value` is in reward units; NaN means missing: it gives no signal.

    `terms` of a weighted sum: the value of each summand by its label, NaN included; those that weigh nothing
    or do not apply are absent.
    """

    value: float
    parts: Mapping[str, float]
    terms: Mapping[str, float] = field(default_factory=dict, compare=False)


@runtime_checkable
class RewardFunction(Protocol):
    """Scores completions, in order. `parts` are the names it records; `value_range` bounds it, if known.

    It is called once with all completions of a step, so a score may depend on the others.
    """

    @property
    def parts(self) -> tuple[str, ...]: ...

    @property
    def value_range(self) -> tuple[float, float] | None: ...

    def __call__(self, completions: Sequence[Completion]) -> Sequence[Score]: ...


RowCheck = Callable[[Completion], object]
"""Takes from a completion's row what a reward would, without a model; raises RewardError where it cannot."""


@runtime_checkable
class WeighsParts(Protocol):
    """A reward whose value is the sum of weight · part; a part of weight 0 is recorded only."""

    @property
    def part_weights(self) -> Mapping[str, float]: ...


@runtime_checkable
class AsyncRewardFunction(Protocol):
    """A reward that is awaited, such as a judge over HTTP: a `RewardFunction` with `async def __call__`.

    It is called with the completions of each batch as soon as the batch is sampled, while the next one is, so
    several calls are in flight at once: it must score each completion by itself. All calls of a run are made
    on one event loop, in a thread of its own, and are cancelled when the run stops.
    """

    @property
    def parts(self) -> tuple[str, ...]: ...

    @property
    def value_range(self) -> tuple[float, float] | None: ...

    async def __call__(self, completions: Sequence[Completion]) -> Sequence[Score]: ...


@runtime_checkable
class MeteredReward(Protocol):
    """A reward that counts what it uses, such as requests and tokens; the counts only grow."""

    def usage(self) -> Mapping[str, float]: ...


@runtime_checkable
class ExplainsItself(Protocol):
    """A reward that may know why it raised: how to mend it, or None."""

    def explained(self, error: BaseException, completions: Sequence[Completion]) -> str | None: ...


@runtime_checkable
class LearntReward(Protocol):
    """A reward that was learnt when it was built, for `users`.

    `description` are sentences on what was learnt; `details` say what made up its value of a completion, in
    a unit of its own, and are not recorded.
    """

    @property
    def users(self) -> tuple[str, ...]: ...

    def description(self) -> Sequence[str]: ...

    def details(self, completion: Completion) -> Mapping[str, float]: ...


@runtime_checkable
class AskingReward(Protocol):
    """A reward that asks somebody else, who may fail.

    `complaints` are sentences on what has failed so far. `refuse_silence` is called after each list of
    completions, such as a step's, and raises RewardError where nothing has come back at all.
    """

    def complaints(self) -> Sequence[str]: ...

    def refuse_silence(self) -> None: ...


def is_asynchronous(function: Callable[..., Any]) -> TypeIs[AsyncRewardFunction]:
    """Whether calling it makes a coroutine: an `async def` function, or an object with such a `__call__`."""
    # Of the type: a class is called to make an object, whatever its objects do when they are called.
    return iscoroutinefunction(function) or iscoroutinefunction(type(function).__call__)


def refuse_coroutine(returned: Any) -> Any:
    """`returned` as it is. Raises TypeError for a coroutine, which would never be awaited."""
    if iscoroutine(returned):
        returned.close()
        raise TypeError("it returned a coroutine and is no `async def` function itself, so it is not awaited")
    return returned


@dataclass(frozen=True)
class BuildContext:
    """What a reward's factory may depend on besides its own section.

    `run_dir` is where a reward may keep files, if there is a run; `allowed_hosts` are the machines, besides
    this one, that it may send prompts and completions to. `device` is where models compute, None for the one
    that `choose_device` takes.
    """

    recipe_dir: Path
    allow_code: bool
    run_dir: Path | None = None
    allowed_hosts: frozenset[str] = frozenset()
    device: Any = None


Builder = Callable[[Any, BuildContext], RewardFunction | AsyncRewardFunction]
"""Takes the section of a recipe, and makes the reward."""


@dataclass(frozen=True)
class TextReward:
    """A reward that is one number in [0, 1], a function of the completion's text alone.

    `score` gives the value, or (value, measure) where `measure` names a second part: what was measured to
    get at the value, in its own unit, NaN where the text has none.
    """

    score: Callable[[str], float] | Callable[[str], tuple[float, float]]
    measure: str | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        return ("value",) if self.measure is None else ("value", self.measure)

    @property
    def part_weights(self) -> dict[str, float]:
        return {part: float(part == "value") for part in self.parts}

    @property
    def value_range(self) -> tuple[float, float]:
        return (0.0, 1.0)

    def __call__(self, completions: Sequence[Completion]) -> list[Score]:
        return [self._score(self.score(completion.text)) for completion in completions]

    def _score(self, found: float | tuple[float, float]) -> Score:
        numbers = found if isinstance(found, tuple) else (found,)
        return Score(numbers[0], dict(zip(self.parts, numbers, strict=True)))


def import_extra(module: str, extra: str, label: str) -> Any:
    """The module, of a package that comes with `pgrpo-cli[extra]`. Raises RecipeError if it is missing."""
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise RecipeError(
            f"reward {label!r} needs the package {package}, which cannot be imported: {error}",
            remedy=f"pip install 'pgrpo-cli[{extra}]'",
        ) from error


def texts_in(completion: Completion, column: str, label: str, setting: str) -> tuple[str, ...]:
    """The text, or the texts of the list, in a column. Raises RewardError if there is none.

    `label` names the reward, `setting` the key of its section that names the column.
    """
    value = required(completion, column, label, setting)
    texts = tuple(value) if isinstance(value, list | tuple) else (value,)
    if texts and all(isinstance(text, str) and text.strip() for text in texts):
        return texts
    raise RewardError(
        f"reward {label!r}: column {column!r} is {shown(value)}, no text and no list of texts; "
        f"{where(completion)}",
        remedy=f"Correct the row, or name another column with `{setting}`.",
    )


def required(completion: Completion, column: str, label: str, setting: str) -> Any:
    """The value in a column. Raises RewardError where the row has none, or null."""
    value = completion.columns.get(column)
    if value is not None:
        return value
    names = sorted(completion.columns)
    there = ", ".join(map(shown, names[:_MOST_COLUMNS])) or "none"
    there += f" and {len(names) - _MOST_COLUMNS} more" if len(names) > _MOST_COLUMNS else ""
    lacking = f"the data lack column {column!r} (columns there: {there})"
    found = f"column {column!r} is null in this row" if column in completion.columns else lacking
    raise RewardError(
        f"reward {label!r}: {found}; {where(completion)}",
        remedy=f"Give every row that it applies to a value in {column!r}, name another column with "
        f"`{setting}`, or limit the reward with `preference_groups`.",
    )


def rating_in(value: Any) -> float | None:
    """The number that a rating is, true and false as 1 and 0, also where it is written as text (CSV knows
    nothing else); None where it is none.
    """
    if isinstance(value, str):
        value = {"true": 1, "false": 0}.get(value.strip().lower(), value)
    try:
        number = float(value) if isinstance(value, int | float | str) else math.inf
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def where(completion: Completion) -> str:
    """The prompt and its preference group."""
    prompt = completion.prompt_id if len(completion.prompt_id) <= 60 else f"{completion.prompt_id[:57]}..."
    return f"prompt {prompt} of preference group {shown(completion.preference_group)}"


def shown(value: Any) -> str:
    """A value for a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
