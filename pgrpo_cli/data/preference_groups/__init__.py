"""Which preference group a prompt belongs to: an assigner for every `type` of `data.preference_groups`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from pgrpo_cli.data.records import PromptRecord, RejectedRow, rejected_record
from pgrpo_cli.data.row_problem import LeftOut, RowProblem

from .base import AssignContext, Assigner, Fitted, GroupOf
from .by_row import (
    build_bins,
    build_column,
    build_expression,
    build_plugin,
    build_random,
    build_user,
)
from .cluster import build_cluster

__all__ = ["ASSIGNERS", "AssignContext", "Assigner", "Fitted", "GroupOf", "RowProblem", "assign"]

Factory = Callable[[Any, AssignContext], Assigner]
"""Takes the section `data.preference_groups`."""

ASSIGNERS: dict[str, Factory] = {
    "column": build_column,
    "bins": build_bins,
    "expression": build_expression,
    "user": build_user,
    "random": build_random,
    "cluster": build_cluster,
    "plugin": build_plugin,
}


def assign(
    records: Iterable[PromptRecord], group_of: GroupOf
) -> tuple[tuple[PromptRecord, ...], tuple[RejectedRow, ...]]:
    """Every record in its preference group, in order; and those that have none, with the reason."""
    grouped, rejected = [], []
    for record in records:
        try:
            grouped.append(replace(record, preference_group=group_of(record)))
        except RowProblem as problem:
            left_out = isinstance(problem, LeftOut)
            rejected.append(rejected_record(record, problem.reason, problem.detail, left_out=left_out))
    return tuple(grouped), tuple(rejected)
