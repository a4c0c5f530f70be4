"""Scores that a judge has given, on disk: what was asked once is not asked again, also by a resumed run.

SQLite in WAL mode: a kill loses no committed answer, and several processes may share a file. Questions are
kept as hashes only.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pgrpo_cli.errors import RewardError

_APPLICATION_ID = 0x70677270
"""Tells such a file from other databases."""
_PATIENCE_SECONDS = 60.0
_TABLE = "CREATE TABLE scores (question TEXT PRIMARY KEY, score REAL NOT NULL, answer TEXT)"
_REMEDY = "Move it away: what it holds is asked again."


class JudgeCache:
    """Scores by the hash of the question. Every method raises RewardError where the file cannot be used."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._usable():
            self._db = sqlite3.connect(path, isolation_level=None, timeout=_PATIENCE_SECONDS)
            try:
                self._claim()
                self._db.execute("PRAGMA journal_mode=WAL")
                # A kill leaves what was committed; a power failure may take the latest answers along.
                self._db.execute("PRAGMA synchronous=NORMAL")
                self._db.execute(_TABLE.replace("TABLE", "TABLE IF NOT EXISTS", 1))
            except BaseException:
                self._db.close()
                raise

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    def get(self, question: str) -> float | None:
        """The score, or None for what has not been asked."""
        with self._usable():
            row = self._db.execute("SELECT score FROM scores WHERE question = ?", (question,)).fetchone()
        if row is None:
            return None
        # A run directory may be a stranger's.
        if not isinstance(row[0], float) or not math.isfinite(row[0]):
            raise RewardError(f"{self._path} holds a score that is no number", remedy=_REMEDY)
        return row[0]

    def put(self, question: str, score: float, answer: str) -> None:
        """Keep a score and the answer that it was read from."""
        with self._usable():
            self._db.execute("INSERT OR REPLACE INTO scores VALUES (?, ?, ?)", (question, score, answer))

    def _claim(self) -> None:
        """Mark a new file as one of these, and refuse any other, also one with views or triggers."""
        (found,) = self._db.execute("PRAGMA application_id").fetchone()
        tables = self._db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL LIMIT 2").fetchall()
        if tables not in ([], [(_TABLE,)]) or found not in (0, _APPLICATION_ID) or (tables and not found):
            raise RewardError(
                f"{self._path} is a database of something else, not of a judge's answers", remedy=_REMEDY
            )
        self._db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise RewardError(
                f"the judge's answers in {self._path} cannot be used: {error}",
                remedy=f"Check the disk. {_REMEDY}",
            ) from error
