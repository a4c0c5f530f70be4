"""The personalization matrix: completions for each preference group, scored by the rewards of every one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from .estimates import PromptValues, Resampler
from .evaluation import equal_groups
from .result_types import EvalRow, Matrix, Which

_MODELS: tuple[Which, Which] = ("base", "tuned")


def matrix_of(
    rows: Sequence[EvalRow],
    scores: Mapping[str, Sequence[float]],
    rewards: Sequence[str],
    resampler: Resampler,
) -> Matrix:
    """The matrix from the scores of every row by the rewards of every preference group.

    Columns may have different units. For the margin each column is therefore standardised by the mean and the
    standard deviation of its scores over all completions of both models. A column without spread becomes 0.
    The margin of a prompt is its score in its own column minus the mean of the other columns. The macro mean
    of the margins equals the mean of the diagonal minus the mean of the other cells, column by column.
    """
    groups = sorted(scores)
    resampler = replace(resampler, equal=equal_groups(rows))
    known = {group: [score for score in scores[group] if not math.isnan(score)] for group in groups}
    centers = {group: statistics.fmean(own) if own else math.nan for group, own in known.items()}
    scales = {group: statistics.pstdev(own) if own else math.nan for group, own in known.items()}
    cells = {which: _cells(rows, which, scores) for which in _MODELS}

    def margins(which: Which) -> PromptValues:
        by_group: PromptValues = {group: {} for group in groups}
        for group, prompts in cells[which].items():
            for prompt, means in prompts.items():
                z = {g: _standard(means[g], centers[g], scales[g]) for g in groups}
                others = [z[g] for g in groups if g != group]
                margin = z[group] - math.fsum(others) / len(others)
                if not math.isnan(margin):
                    by_group[group][prompt] = margin
        return by_group

    return Matrix(
        preference_groups=groups,
        rewards=list(rewards),
        base=_means(cells["base"], groups),
        tuned=_means(cells["tuned"], groups),
        centers=[centers[group] for group in groups],
        scales=[scales[group] for group in groups],
        margin=resampler.contrast(margins("base"), margins("tuned"), dict.fromkeys(groups, 1.0)),
    )


def few_enough(rows: Sequence[EvalRow], groups: int, most: int) -> list[EvalRow]:
    """Limit the work: all rows if `groups` scores of each row are at most `most` scores. Otherwise the first
    completion of the first prompts, with equally many prompts of each preference group, at least two.
    """
    if len(rows) * groups <= most:
        return list(rows)
    prompts = max(2, most // (len(_MODELS) * groups**2))
    taken: dict[str, dict[str, None]] = {}
    for row in rows:
        chosen = taken.setdefault(row.preference_group, {})
        if len(chosen) < prompts:
            chosen[row.prompt_id] = None
    return [row for row in rows if row.completion_index == 0 and row.prompt_id in taken[row.preference_group]]


def standardised(matrix: Matrix, which: Which) -> list[list[float]]:
    """The cells as deviations from the mean of their column, in its standard deviations."""
    cells = matrix.base if which == "base" else matrix.tuned
    return [
        [_standard(v, c, s) for v, c, s in zip(row, matrix.centers, matrix.scales, strict=True)]
        for row in cells
    ]


_Cells = dict[str, dict[str, dict[str, float]]]
"""preference group of the prompt -> prompt id -> preference group of the reward -> mean score."""


def _cells(rows: Sequence[EvalRow], which: Which, scores: Mapping[str, Sequence[float]]) -> _Cells:
    by_group: dict[str, dict[str, dict[str, list[float]]]] = {}
    for index, row in enumerate(rows):
        if row.which == which:
            columns = by_group.setdefault(row.preference_group, {}).setdefault(
                row.prompt_id, {group: [] for group in scores}
            )
            for group, column in columns.items():
                if not math.isnan(scores[group][index]):
                    column.append(scores[group][index])
    return {
        group: {
            prompt: {g: math.fsum(c) / len(c) if c else math.nan for g, c in columns.items()}
            for prompt, columns in prompts.items()
        }
        for group, prompts in by_group.items()
    }


def _means(cells: _Cells, groups: Sequence[str]) -> list[list[float]]:
    def mean(row: str, column: str) -> float:
        values = [means[column] for means in cells.get(row, {}).values() if not math.isnan(means[column])]
        return math.fsum(values) / len(values) if values else math.nan

    return [[mean(row, column) for column in groups] for row in groups]


def _standard(value: float, center: float, scale: float) -> float:
    return 0.0 * value if scale < 1e-12 else (value - center) / scale
