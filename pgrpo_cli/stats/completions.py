"""Completions besides their rewards: what is kept of the base model, and which ones a judge prefers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from .estimates import PromptValues, Resampler
from .result_types import EvalRow, Fluency, Judged, JudgedPair, Kept, Preference, Which


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


def judged_of(pairs: Sequence[JudgedPair], judge: Mapping[str, Any], resampler: Resampler) -> Judged:
    """The result by preference group and over all of them. `judge` is the section of the recipe."""
    groups = sorted({pair.preference_group for pair in pairs})
    return Judged(
        judge=dict(judge),
        groups={
            group: _preference([p for p in pairs if p.preference_group == group], resampler)
            for group in groups
        },
        macro=_preference(pairs, resampler),
        pairs=list(pairs),
    )


def outcome(pair: JudgedPair) -> float:
    """1 if the tuned model wins, 0 if it loses, 0.5 for a tie, NaN if the judge gave no answer.

    A win needs a preference in both orders: one in a single order may come from the order alone.
    """
    total = pair.shown_first + pair.shown_second
    if math.isnan(total):
        return math.nan
    return {0.0: 0.0, 2.0: 1.0}.get(total, 0.5)


def contradicts(pair: JudgedPair) -> bool:
    """Whether the order decided: the judge preferred the first answer both times, or the second."""
    return {pair.shown_first, pair.shown_second} == {0.0, 1.0}


def _preference(pairs: Sequence[JudgedPair], resampler: Resampler) -> Preference:
    outcomes = [outcome(pair) for pair in pairs]
    equal_weights = {pair.preference_group: 1.0 for pair in pairs}

    def share(worth: Mapping[float, float]) -> PromptValues:
        """For each prompt, the mean of `worth` over the outcomes of its pairs."""
        by_group: dict[str, dict[str, list[float]]] = {}
        for pair, result in zip(pairs, outcomes, strict=True):
            if not math.isnan(result):
                prompts = by_group.setdefault(pair.preference_group, {})
                prompts.setdefault(pair.prompt_id, []).append(worth.get(result, 0.0))
        return {
            group: {prompt: math.fsum(values) / len(values) for prompt, values in prompts.items()}
            for group, prompts in by_group.items()
        }

    return Preference(
        win=resampler.share(share({1.0: 1.0}), equal_weights),
        tie=resampler.share(share({0.5: 1.0}), equal_weights),
        loss=resampler.share(share({0.0: 1.0}), equal_weights),
        win_rate=resampler.share(share({1.0: 1.0, 0.5: 0.5}), equal_weights),
        pairs=len(pairs),
        contradictions=sum(contradicts(pair) for pair in pairs),
        failed=sum(math.isnan(result) for result in outcomes),
    )
