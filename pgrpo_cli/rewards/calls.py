"""One call of one reward: what it returns is checked, what it raises is explained by the completion."""

from __future__ import annotations

import asyncio
import linecache
import math
import sysconfig
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pgrpo_cli.algo.estimators import LARGEST_REWARD
from pgrpo_cli.errors import PgrpoError, RewardError

from .base import (
    AsyncRewardFunction,
    Completion,
    ExplainsItself,
    RewardFunction,
    Score,
    refuse_coroutine,
    where,
)
from .reward_sum import Term

# What a reward may raise that is reported as its failure. An exit is one too: it would end the run without a
# word, or take the event loop down with it.
FAILURES = (Exception, SystemExit)

_LONGEST = 500
"""Characters of what an error says; of a value or a line of code, fewer are shown."""
_LONGEST_VALUE = 120
_OURS = f"{Path(__file__).resolve().parents[1]}/"
_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


class AwaitedRewardRaised(Exception):
    """An asynchronous reward raised what `__cause__` holds; the completion to blame is still to be found."""


def call(term: Term, function: RewardFunction, completions: Sequence[Completion]) -> list[Score]:
    """The checked scores of a synchronous reward. Raises RewardError if it raises or gives no numbers."""
    try:
        scores = list(refuse_coroutine(function(completions)))
    except PgrpoError:
        raise
    except FAILURES as error:
        raise raised_error(term, error, completions, _first_that_raises(function, completions)) from error
    return _checked(term, scores, completions)


async def call_asynchronous(
    term: Term, function: AsyncRewardFunction, completions: Sequence[Completion]
) -> list[Score]:
    """The same for an asynchronous reward, but what it raises comes at once, as AwaitedRewardRaised."""
    try:
        scores = list(await function(completions))
    except PgrpoError:
        raise
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise AwaitedRewardRaised from error
    except FAILURES as error:
        raise AwaitedRewardRaised from error
    return _checked(term, scores, completions)


def raised_error(
    term: Term, error: BaseException, completions: Sequence[Completion], culprit: Completion | None
) -> RewardError:
    """What to say about a reward that raised `error`, on the completion `culprit` if that is known."""
    on = (
        _where(culprit)
        if culprit is not None
        else f"but not when called again with each completion alone; the first of {len(completions)}: "
        f"{_where(completions[0])}"
    )
    hint = term.function.explained(error, completions) if isinstance(term.function, ExplainsItself) else None
    place = place_of(error) or definition_of(getattr(term.function, "function", None))
    return RewardError(
        f"reward {term.label!r} raised {described(error)}; {on}" + (f"\n  {place}" if place else ""),
        remedy=hint or "Correct the reward, or let it return NaN for completions that it cannot score.",
    )


def _first_that_raises(function: RewardFunction, completions: Sequence[Completion]) -> Completion | None:
    for completion in completions:
        try:
            list(refuse_coroutine(function([completion])))
        except FAILURES:
            return completion
    return None


async def first_that_raises(
    function: AsyncRewardFunction, completions: Sequence[Completion]
) -> Completion | None:
    """The first completion on which the reward raises when called with it alone; all are tried at once."""

    async def raises(completion: Completion) -> bool:
        try:
            list(await function([completion]))
        except (*FAILURES, asyncio.CancelledError):
            return True
        return False

    tasks = [asyncio.create_task(raises(completion)) for completion in completions]
    try:
        for task, completion in zip(tasks, completions, strict=True):
            if await task:
                return completion
        return None
    finally:
        for task in tasks:
            task.cancel()


def _checked(term: Term, scores: Sequence[Score], completions: Sequence[Completion]) -> list[Score]:
    if len(scores) != len(completions):
        raise RewardError(
            f"reward {term.label!r} returned {len(scores)} values for {len(completions)} completions; "
            f"{_where(completions[0])}",
            remedy="Return one number for each completion, in order.",
        )
    return [
        _finite_score(term, score, completion) for score, completion in zip(scores, completions, strict=True)
    ]


def _finite_score(term: Term, score: Score, completion: Completion) -> Score:
    if not isinstance(score, Score):
        raise RewardError(
            f"reward {term.label!r} returned {written(score)} where a Score was due; {_where(completion)}",
            remedy="Return pgrpo_cli.rewards.Score(value, parts) for each completion.",
        )
    value = _as_reward(score.value, term.label, completion)
    parts = {name: _as_reward(part, f"{term.label}.{name}", completion) for name, part in score.parts.items()}
    unknown = [name for name in parts if name not in term.function.parts]
    if unknown:
        raise RewardError(
            f"reward {term.label!r} recorded part {unknown[0]!r}, which it does not declare",
            remedy=f"Declare it in `parts` (declared: {', '.join(term.function.parts)}).",
        )
    return Score(value, {name: part for name, part in parts.items() if not math.isnan(part)})


def _as_reward(value: Any, label: str, completion: Completion) -> float:
    """`value` as a float, NaN allowed. Raises RewardError for what is no number, or too large a one."""
    number: float | None = None
    if not isinstance(value, str | bytes):
        # What a number's own code raises is no number either.
        with suppress(Exception):
            number = float(value)
    if number is None or abs(number) > LARGEST_REWARD:
        kind = "no finite number" if number is None or math.isinf(number) else "too large"
        raise RewardError(
            f"reward {label!r} returned {written(value)} ({type(value).__name__}), which is {kind}; "
            f"{_where(completion)}",
            remedy=f"Return a number of at most {LARGEST_REWARD:g}, since squares are summed, or NaN where a "
            "completion cannot be scored.",
        )
    return number


def _where(completion: Completion) -> str:
    text = completion.text if len(completion.text) <= 80 else completion.text[:77] + "..."
    return f"{where(completion)}, completion {text!r}"


def described(error: BaseException) -> str:
    """The type of an error, and what it says."""
    try:
        said = str(error)
    except Exception:
        said = "it cannot say why"
    return f"{type(error).__name__}: {_cut(said, _LONGEST)}"


def written(value: Any) -> str:
    """A value as code writes it."""
    try:
        return _cut(repr(value), _LONGEST_VALUE)
    except Exception:
        return f"something of type {type(value).__name__} that cannot be written"


def place_of(error: BaseException) -> str | None:
    """`file:line: code` of the last line of the user's that ran, else of a package's; None where none did."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return _place(error.filename, error.lineno, error.text or "")
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((_OURS, "<frozen "))
    ]
    own = [frame for frame in frames if not frame.filename.startswith(_INSTALLED)]
    if not frames:
        return None
    last = (own or frames)[-1]
    return _place(last.filename, last.lineno or 0, last.line or "")


def definition_of(function: Any) -> str | None:
    """`file:line: code` of the first line of a function."""
    code = getattr(function, "__code__", None)
    if code is None:
        return None
    line = linecache.getline(code.co_filename, code.co_firstlineno)
    return _place(code.co_filename, code.co_firstlineno, line)


def _place(file: str, line: int, code: str) -> str:
    return f"{file}:{line}: {_cut(code.strip(), _LONGEST_VALUE)}"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}..."
