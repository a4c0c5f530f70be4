"""Which preference group a prompt belongs to."""

from __future__ import annotations

from collections.abc import Iterable

from .records import GroupedData, PromptRecord, SourceData, SourceRecord


def named_by_rows(source: SourceData) -> GroupedData:
    """Every record in the preference group that its row names, which sources see to."""
    held_out = None if source.eval is None else tuple(_grouped(source.eval))
    return GroupedData(tuple(_grouped(source.train)), held_out, source.rejected, source.files)


def _grouped(records: Iterable[SourceRecord]) -> Iterable[PromptRecord]:
    for record in records:
        assert record.preference_group is not None
        yield PromptRecord(**vars(record))
