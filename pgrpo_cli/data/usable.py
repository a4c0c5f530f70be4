"""Whether assembled data can be trained on at all."""

from __future__ import annotations

from dataclasses import replace

from pgrpo_cli.errors import DataError

from .assemble import Assembled
from .losses import described
from .prompts import remedy_for
from .records import SourceData, rejected_record

UNTRAINED = "preference group without training prompts"


def require_prompts(source: SourceData, assembled: Assembled, *, every_group: bool) -> Assembled:
    """The same data, perhaps with fewer held-out prompts. Raises DataError without a training prompt.

    A preference group that is held out and not trained is an error with `every_group`, where the rows name
    their groups; where groups are derived, its held-out prompts are rejected.
    """
    if not assembled.prompts["train"]:
        raise DataError(
            f"no prompt is left to train on: {_why_none(source, assembled)}",
            remedy=remedy_for(
                assembled.rejected, "Correct the rows or the column names and limits under `data`."
            ),
        )
    training = {prompt.preference_group for prompt in assembled.prompts["train"]}
    if every_group:
        for record in assembled.unsplit:
            if record.assigned not in training:
                raise _untrained(record.assigned, assembled)
        return assembled
    return _without_untrained(assembled, training)


def _why_none(source: SourceData, assembled: Assembled) -> str:
    rejected = assembled.rejected
    if not rejected:
        return f"no rows at all in {', '.join(file.name for file in source.files) or 'the source'}"
    return f"{sum(row.count for row in rejected)} rows rejected\n{described(rejected)}"


def _untrained(group: str, assembled: Assembled) -> DataError:
    lost = [row for row in assembled.rejected if row.preference_group == group]
    why = f"; {len(lost)} of its rows were rejected\n{described(lost)}" if lost else ""
    return DataError(
        f"preference group {group!r} has no training prompt{why}",
        remedy="Give it training prompts, raise the limit that rejects them, or remove its rows.",
    )


def _without_untrained(assembled: Assembled, training: set[str]) -> Assembled:
    records, prompts = assembled.records["eval"], assembled.prompts["eval"]
    rejected = tuple(
        rejected_record(record, UNTRAINED, f"no training prompt is in {record.assigned!r}", left_out=True)
        for record in records
        if record.assigned not in training
    )
    return replace(
        assembled,
        records={
            **assembled.records,
            "eval": tuple(record for record in records if record.assigned in training),
        },
        prompts={
            **assembled.prompts,
            "eval": [prompt for prompt in prompts if prompt.preference_group in training],
        },
        rejected=(*assembled.rejected, *rejected),
    )
