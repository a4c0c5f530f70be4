"""Whether so many rows are broken that the rest is not what the user meant to train on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from pgrpo_cli.errors import DataError
from pgrpo_cli.recipe.data import DataSection

from .assemble import Assembled
from .prompts import remedy_for
from .records import RejectedRow, SourceData
from .summary import count_reasons

ALWAYS_PASSED = 2
"""Broken rows that are no reason to stop, be there ever so few rows."""
OF_A_PART = 4
"""A file or preference group may lose so many times the share of the whole: small parts vary more."""
EXAMPLES = 5
NO_FILE = "the source"


@dataclass(frozen=True)
class Loss:
    """Of `rows` rows of `where`, those in `rejected` are broken; `allowed` is the share that may be.

    `limit` says where that share comes from.
    """

    where: str
    rejected: tuple[RejectedRow, ...]
    rows: int
    allowed: float
    limit: str = "data.max_rejected_share"

    @property
    def broken(self) -> int:
        return sum(row.count for row in self.rejected)

    @property
    def too_large(self) -> bool:
        passed = ALWAYS_PASSED if self.allowed else 0
        return self.broken > max(passed, self.allowed * self.rows)


def require_few_broken(source: SourceData, section: DataSection) -> None:
    """Raises DataError where too many rows of a source are broken, of all or of one file."""
    share = section.max_rejected_share
    if source.given_up:
        broken = tuple(row for row in source.rejected if not row.left_out)
        raise _too_many(Loss("the first rows", broken, sum(source.rows.values()), share))
    _require(_of_files(source.rejected, source.rows, share))


def require_few_lost(source: SourceData, assembled: Assembled, section: DataSection) -> None:
    """Raises DataError where too many rows have come to no prompt: of all, a file, a preference group."""
    share = section.max_rejected_share
    later = assembled.rejected[len(source.rejected) :]
    records = (*source.train, *(source.eval or ()))
    _require(_of_files(later, Counter(record.file or NO_FILE for record in records), share))
    # Where groups are made otherwise, what a row names as its group is no preference group.
    if section.preference_groups.type == "column":
        _require(_of_groups(assembled, share))


def described(rejected: Sequence[RejectedRow]) -> str:
    """How many rows there are of each reason, and the first few, those of different reasons first."""
    reasons = "; ".join(f"{count} x {reason}" for reason, count in count_reasons(rejected).items())
    return "\n".join([f"  {reasons}", *(f"  {_shown(row)}" for row in islice(_examples(rejected), EXAMPLES))])


def _require(losses: Iterable[Loss]) -> None:
    if (loss := next((loss for loss in losses if loss.too_large), None)) is not None:
        raise _too_many(loss)


def _of_files(rejected: Iterable[RejectedRow], rows: Mapping[str, int], share: float) -> Iterator[Loss]:
    broken = [row for row in rejected if not row.left_out]
    yield Loss("all files", tuple(broken), sum(rows.values()), share)
    for file, count in rows.items():
        yield _of_part(file, [row for row in broken if (row.file or NO_FILE) == file], count, share)


def _of_groups(assembled: Assembled, share: float) -> Iterator[Loss]:
    kept = Counter(prompt.preference_group for half in assembled.prompts.values() for prompt in half)
    broken: dict[str, list[RejectedRow]] = {}
    for row in assembled.rejected:
        if row.preference_group is not None and row.left_out:
            kept[row.preference_group] += row.count
        elif row.preference_group is not None:
            broken.setdefault(row.preference_group, []).append(row)
    for group, rows in broken.items():
        total = kept[group] + sum(row.count for row in rows)
        yield _of_part(f"preference group {group!r}", rows, total, share)


def _of_part(where: str, rejected: Sequence[RejectedRow], rows: int, share: float) -> Loss:
    limit = f"{OF_A_PART} times data.max_rejected_share"
    return Loss(where, tuple(rejected), rows, min(1, OF_A_PART * share), limit)


def _too_many(loss: Loss) -> DataError:
    passed = f"; up to {ALWAYS_PASSED} are always passed over" if loss.allowed else ""
    return DataError(
        f"{loss.where}: {loss.broken} of {loss.rows} rows are broken ({loss.broken / loss.rows:.1%}), more "
        f"than {loss.limit} ({loss.allowed:.3g}){passed}\n{described(loss.rejected)}",
        remedy=remedy_for(
            loss.rejected,
            "Correct the rows or what the recipe says of them, or raise data.max_rejected_share to train "
            "without them.",
        ),
    )


def _examples(rejected: Sequence[RejectedRow]) -> Iterator[RejectedRow]:
    first = {row.reason: row for row in reversed(rejected)}
    yield from (first[reason] for reason in count_reasons(rejected))
    yield from (row for row in rejected if row is not first[row.reason])


def _shown(row: RejectedRow) -> str:
    return f"{row.where}: {row.reason} ({row.detail})"
