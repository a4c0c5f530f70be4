"""Differences in standard deviations of the base model's rewards: each preference group counts alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .comparison import Pair, Side, pairs_of
from .estimates import differences_of
from .evaluation import without_unit
from .intervals import Bootstrap


def standardised_pair(
    side: Side,
    reference: Side,
    bootstrap: Bootstrap,
    users: Mapping[str, str],
    scales: Mapping[str, float],
) -> Pair | None:
    """The macro line of rewards that are divided by `scales`, one for each preference group. None if a group
    without a scale differs (`scales_missing`), since a mean of the others would hide it.
    """

    def scaled(side: Side) -> Side:
        values = tuple(
            {g: {p: v / (scales.get(g, 0.0) or 1.0) for p, v in own.items()} for g, own in of_run.items()}
            for of_run in side.values
        )
        return replace(side, values=values)

    if scales_missing(side, reference, scales):
        return None
    return pairs_of(scaled(side), scaled(reference), bootstrap, users)[-1]


def scales_missing(side: Side, reference: Side, scales: Mapping[str, float]) -> list[str]:
    """The preference groups in which a run of both methods differs from another, and that have no scale."""
    first, *others = (*side.values, *reference.values)
    return sorted({group for other in others for group in without_unit(differences_of(other, first), scales)})
