"""Areas under held-out curves by prompt: which method learns faster, and whether that is noise. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby

from pgrpo_cli.algo.intervals import Bootstrap

from .comparison import Side, pairs_of
from .comparison_types import Method, Pair
from .estimates import PromptValues
from .learning import Line, Progress, mean_height


def area_pairs(
    methods: Sequence[Method],
    runs: Mapping[str, Progress],
    bootstrap: Bootstrap,
    users: Mapping[str, str] | None = None,
) -> dict[tuple[str, str | None], Pair]:
    """Every later method against the first, as `pairs_of` compares, by method and preference group.

    The value of a prompt is the mean height of its curve over the steps that all runs have. Empty where a
    run's curve does not tell prompts apart.
    """
    if not runs or not all(progress.prompts for progress in runs.values()):
        return {}
    first = max(min(progress.prompts) for progress in runs.values())
    last = min(max(progress.prompts) for progress in runs.values())
    reference, *others = (
        Side(
            method.label,
            tuple(method.seeds),
            tuple(_areas(runs[run].prompts, first, last) for run in method.runs),
        )
        for method in methods
    )
    return {
        (pair.run, pair.preference_group): pair
        for side in others
        for pair in pairs_of(side, reference, bootstrap, users)
    }


def _areas(prompts: Mapping[int, PromptValues], first: int, last: int) -> PromptValues:
    """Prompts whose curve does not reach from `first` to `last` are left out."""
    points = sorted(
        (group, prompt, step, value)
        for step, groups in prompts.items()
        for group, found in groups.items()
        for prompt, value in found.items()
    )
    areas: PromptValues = {}
    for (group, prompt), found in groupby(points, key=lambda point: point[:2]):
        line: Line = [(step, value) for _, _, step, value in found]
        height = mean_height(line, first, last)
        if not math.isnan(height):
            areas.setdefault(group, {})[prompt] = height
    return areas
