"""How much the tuned model has kept of the base model: divergence, diversity, lengths."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from .estimates import PromptValues, Resampler
from .result_types import EvalRow, Fluency, Kept, Which


def kept_of(rows: Sequence[EvalRow], perplexities: Mapping[Which, float], resampler: Resampler) -> Kept:
    """`perplexities`: that of the neutral text under each model."""
    values = kl_values(rows)
    equal_weights = dict.fromkeys(values, 1.0)
    return Kept(
        base=_fluency(rows, "base", perplexities["base"]),
        tuned=_fluency(rows, "tuned", perplexities["tuned"]),
        kl=resampler.mean(values, equal_weights),
        groups={group: resampler.mean(values, {group: 1.0}) for group in sorted(values)},
    )


def kl_values(rows: Iterable[EvalRow]) -> PromptValues:
    """KL per token for each prompt: the sum over all tokens of its tuned completions, divided by their
    number.
    """
    sums: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for row in rows:
        if row.which == "tuned" and not math.isnan(row.kl):
            sums.setdefault((row.preference_group, row.prompt_id), []).append((row.kl, row.length))
    values: PromptValues = {}
    for (group, prompt), completions in sums.items():
        total = math.fsum(kl * length for kl, length in completions)
        values.setdefault(group, {})[prompt] = total / sum(length for _, length in completions)
    return values


def distinct(texts: Iterable[str], n: int) -> float:
    """The number of distinct word n-grams divided by that of all n-grams (Li et al. 2016); NaN if there is
    none.

    Case is ignored. The ratio falls with the amount of text. So it can only be compared between equally many
    completions of similar length.
    """
    total, different = 0, set()
    for text in texts:
        words = text.casefold().split()
        grams: list[Any] = list(pairwise(words)) if n == 2 else list(words)
        total += len(grams)
        different.update(grams)
    return len(different) / total if total else math.nan


def _fluency(rows: Sequence[EvalRow], which: Which, perplexity: float) -> Fluency:
    own = [row for row in rows if row.which == which]
    texts = [row.text for row in own]
    return Fluency(
        perplexity=perplexity,
        distinct_1=distinct(texts, 1),
        distinct_2=distinct(texts, 2),
        length=statistics.fmean(row.length for row in own) if own else math.nan,
        truncated=statistics.fmean(not row.finished for row in own) if own else math.nan,
    )
