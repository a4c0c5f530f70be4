"""From a judge's answers about pairs of completions to wins, ties and losses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .estimates import PromptValues, Resampler
from .result_types import Judged, JudgedPair, Preference


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
