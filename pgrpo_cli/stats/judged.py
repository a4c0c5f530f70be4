"""From a judge's answers about pairs of completions to wins, ties and losses. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .estimates import PromptValues, Resampler
from .result_types import Judged, JudgedPair, Preference


def judged_of(pairs: Sequence[JudgedPair], judge: Mapping[str, Any], resampler: Resampler) -> Judged:
    """By preference group and over them; `judge` is the section of the recipe."""
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
    """1 where the tuned model wins, 0 where it loses, 0.5 for a tie, NaN where the judge did not say.

    A win is a preference in both orders. One in a single order is the order's as much as the answer's.
    """
    total = pair.shown_first + pair.shown_second
    if math.isnan(total):
        return math.nan
    return {0.0: 0.0, 2.0: 1.0}.get(total, 0.5)


def contradicts(pair: JudgedPair) -> bool:
    """Whether the order decided: the judge preferred whichever was shown first, or whichever second."""
    return {pair.shown_first, pair.shown_second} == {0.0, 1.0}


def _preference(pairs: Sequence[JudgedPair], resampler: Resampler) -> Preference:
    outcomes = [outcome(pair) for pair in pairs]
    once = {pair.preference_group: 1.0 for pair in pairs}

    def share(worth: Mapping[float, float]) -> PromptValues:
        """The mean over each prompt's pairs of what their outcomes are worth."""
        found: dict[str, dict[str, list[float]]] = {}
        for pair, how in zip(pairs, outcomes, strict=True):
            if not math.isnan(how):
                prompts = found.setdefault(pair.preference_group, {})
                prompts.setdefault(pair.prompt_id, []).append(worth.get(how, 0.0))
        return {
            group: {prompt: math.fsum(values) / len(values) for prompt, values in prompts.items()}
            for group, prompts in found.items()
        }

    return Preference(
        win=resampler.share(share({1.0: 1.0}), once),
        tie=resampler.share(share({0.5: 1.0}), once),
        loss=resampler.share(share({0.0: 1.0}), once),
        win_rate=resampler.share(share({1.0: 1.0, 0.5: 0.5}), once),
        pairs=len(pairs),
        contradictions=sum(contradicts(pair) for pair in pairs),
        failed=sum(math.isnan(how) for how in outcomes),
    )
