"""Whether an exported model answers as the run does, and what is the likely cause where it does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

from pgrpo_cli.errors import ExportError

from .reference import Answer, Read

_GIBBERISH = 2.0
"""Nats a token that no rounding explains."""


@dataclass(frozen=True)
class Checked:
    """The comparison of an exported model with the run, over the run's likeliest answers to its prompts.

    `greedy_equal`: the prompts to which the exported model's likeliest answer is the same, token by token.
    `mean_abs_logprob_difference`: nats per token. `trained_difference`: the same between the run and its base
    model without the adapter: how much there was to lose. `by`: the program that loaded the export.
    """

    prompts: int
    greedy_equal: int
    mean_abs_logprob_difference: float
    trained_difference: float
    bound: float
    by: str

    def as_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


def compared(answers: Sequence[Answer], found: Sequence[Read], *, bound: float, by: str) -> Checked:
    """Compare how the exported model reads the run's answers with how the run itself does.

    The likeliest answers are the same where the likeliest token is at each place of the run's answer.
    """
    same = [list(read.likeliest) == list(answer.tokens) for answer, read in zip(answers, found, strict=True)]
    return Checked(
        prompts=len(answers),
        greedy_equal=sum(same),
        mean_abs_logprob_difference=_difference(answers, found),
        trained_difference=_difference(answers, [answer.base for answer in answers]),
        bound=bound,
        by=by,
    )


def _difference(answers: Sequence[Answer], found: Sequence[Read]) -> float:
    pairs = (
        pair
        for answer, read in zip(answers, found, strict=True)
        for pair in zip(answer.own.logprobs, read.logprobs, strict=True)
    )
    return fmean(abs(one - other) for one, other in pairs)


def require_near(checked: Checked, answers: Sequence[Answer], found: Sequence[Read]) -> None:
    """Raise ExportError, with the likely cause, if the exported model is further from the run than allowed,
    or is much nearer to the base model without the adapter.
    """
    difference = checked.mean_abs_logprob_difference
    from_base = _difference([replace(answer, own=answer.base) for answer in answers], found)
    lost = from_base < difference / 2
    if math.isfinite(difference) and difference <= checked.bound and not lost:
        return
    raise ExportError(
        f"the exported model, as {checked.by} loads it, does not answer as the run does: log-probabilities "
        f"differ by {difference:.3g} nats a token on average, and {checked.bound:.2f} are allowed; "
        f"{checked.greedy_equal} of {checked.prompts} answers are the same. Likely cause: "
        + (
            f"the adapter was not applied, for the base model without it is only {from_base:.3g} away."
            if lost
            else _cause(checked)
        ),
        remedy="Nothing was written. Try --quantization f16, or --to merged, which is compared by itself.",
    )


def _cause(checked: Checked) -> str:
    if not math.isfinite(checked.mean_abs_logprob_difference):
        return "weights that are too large for the type of numbers that they were saved in."
    if checked.greedy_equal == 0 and checked.mean_abs_logprob_difference > _GIBBERISH:
        return "weights in the wrong order or place, or a tokenizer of another model."
    return "the weights were rounded too much, or the base model is another version than the run's."
