"""Whether an exported model answers as the run does, and what is the likely cause where it does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from pgrpo_cli.errors import ExportError

from .formats import BOUND
from .reference import Answer, Read

_GIBBERISH = 2.0
"""Nats a token that no rounding explains."""
UNCHANGED = 1e-3
"""Nats a token below which training has changed nothing that could be lost."""


@dataclass(frozen=True)
class Checked:
    """The comparison of an exported model with the run, over the run's likeliest answers to its prompts.

    `greedy_equal`: the prompts to which the exported model's likeliest answer is the same, token by token.
    The others are mean absolute differences of log-probabilities, in nats per token: of the export and the
    run (`mean_abs_logprob_difference`); of the export and the same weights before they were written
    (`export_difference`, which `bound` limits); of those weights and the run, which has its own roundings, to
    half precision and NF4 (`rounding_difference`); and of the run and its base model without the adapter,
    which is what there was to lose (`trained_difference`). `by`: the program that loaded the export.
    """

    prompts: int
    greedy_equal: int
    mean_abs_logprob_difference: float
    export_difference: float
    rounding_difference: float
    trained_difference: float
    bound: float
    by: str

    def as_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


def compared(
    answers: Sequence[Answer], exact: Sequence[Read], found: Sequence[Read], *, bound: float, by: str
) -> Checked:
    """Compare how the exported model reads the run's answers with how the run itself does.

    `exact`: how the weights that were exported read them, in float32 before they were written. The likeliest
    answers are the same where the likeliest token is at each place of the run's answer. `bound`: what the
    type of numbers may lose; less is allowed if training changed less, since nothing of it would be left.
    """
    same = [list(read.likeliest) == list(answer.tokens) for answer, read in zip(answers, found, strict=True)]
    own = [answer.own for answer in answers]
    trained = _difference(own, [answer.base for answer in answers])
    return Checked(
        prompts=len(answers),
        greedy_equal=sum(same),
        mean_abs_logprob_difference=_difference(own, found),
        export_difference=_difference(exact, found),
        rounding_difference=_difference(own, exact),
        trained_difference=trained,
        bound=min(bound, max(BOUND, trained)),
        by=by,
    )


def _difference(ones: Sequence[Read], others: Sequence[Read]) -> float:
    pairs = (
        pair
        for one, other in zip(ones, others, strict=True)
        for pair in zip(one.logprobs, other.logprobs, strict=True)
    )
    return fmean(abs(one - other) for one, other in pairs)


def require_near(checked: Checked, answers: Sequence[Answer], found: Sequence[Read]) -> None:
    """Raise ExportError, with the likely cause, if the exported model is further from its own weights than
    allowed, or is much nearer to the base model without the adapter than to the run.
    """
    difference = checked.export_difference
    from_base = _difference([answer.base for answer in answers], found)
    lost = checked.trained_difference > UNCHANGED and from_base < checked.mean_abs_logprob_difference / 2
    if math.isfinite(difference) and difference <= checked.bound and not lost:
        return
    raise ExportError(
        f"the exported model, as {checked.by} loads it, does not answer as the run's weights do: "
        f"log-probabilities differ by {difference:.3g} nats per token on average, and {checked.bound:.2f} "
        f"are allowed; {checked.greedy_equal} of {checked.prompts} answers are the run's. Likely cause: "
        + (
            f"the adapter was not applied, for the base model without it is only {from_base:.3g} away."
            if lost
            else _cause(checked)
        ),
        remedy="Nothing was written. Try --quantization f16, or --to merged, which is compared by itself.",
    )


def _cause(checked: Checked) -> str:
    if not math.isfinite(checked.export_difference):
        return "weights that are too large for the type of numbers that they were saved in."
    if checked.greedy_equal == 0 and checked.export_difference > _GIBBERISH:
        return "weights in the wrong order or place, or a tokenizer of another model."
    lost = " as much as training changed them" if checked.bound == checked.trained_difference else ""
    return f"the weights were rounded too much{lost}."
