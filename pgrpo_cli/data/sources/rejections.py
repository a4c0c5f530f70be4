"""Rejected rows of inputs that are too long to list every one of them, and how many rows there were."""

from __future__ import annotations

from collections import Counter, defaultdict

from pgrpo_cli.data.records import RejectedRow

LISTED = 10_000


class Rejections:
    """Rejected rows by reason, at most `listed` of each; the others are counted in one row at the end."""

    def __init__(self, listed: int = LISTED) -> None:
        self._listed = listed
        self._rows: dict[str, list[RejectedRow]] = defaultdict(list)
        self._counts: Counter[str] = Counter()
        self.rows_by_file: Counter[str] = Counter()

    def looked_at(self, file: str, rows: int = 1) -> None:
        """Count rows, whether they are rejected or not."""
        self.rows_by_file[file] += rows

    def add(self, row: RejectedRow) -> None:
        self._counts[row.reason] += 1
        if self._counts[row.reason] <= self._listed:
            self._rows[row.reason].append(row)

    @property
    def count(self) -> int:
        """All that were added, listed or not."""
        return self._counts.total()

    @property
    def first(self) -> RejectedRow | None:
        """The first one that was added."""
        return next((rows[0] for rows in self._rows.values()), None)

    def rows(self) -> tuple[RejectedRow, ...]:
        """The listed rows, reason by reason as they first occurred."""
        found: list[RejectedRow] = []
        for reason, rows in self._rows.items():
            found += rows
            if self._counts[reason] > len(rows):
                detail = f"{self._counts[reason]} rows in all, of which {len(rows)} are listed"
                further = self._counts[reason] - len(rows)
                found.append(
                    RejectedRow(reason, detail, rows[0].file, left_out=rows[0].left_out, count=further)
                )
        return tuple(found)
