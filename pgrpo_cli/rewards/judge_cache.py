"""Scores that a judge has given, on disk: what was asked once is not asked again, also by a run that goes on.

SQLite in WAL mode: a kill loses no committed answer, and several processes may share a file. Questions are
kept as hashes only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pgrpo_cli.errors import RewardError

_APPLICATION_ID = 0x70677270
"""Tells such a file from other databases: a recipe must not name one of those and have it changed."""
_PATIENCE_SECONDS = 60.0
_SCHEMA = "CREATE TABLE IF NOT EXISTS scores (question TEXT PRIMARY KEY, score REAL NOT NULL, answer TEXT)"


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
                self._db.execute(_SCHEMA)
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
        return None if row is None else float(row[0])

    def put(self, question: str, score: float, answer: str) -> None:
        """Keep a score and the answer that it was read from."""
        with self._usable():
            self._db.execute("INSERT OR REPLACE INTO scores VALUES (?, ?, ?)", (question, score, answer))

    def _claim(self) -> None:
        """Mark a new file as one of these, and refuse any other."""
        (found,) = self._db.execute("PRAGMA application_id").fetchone()
        if found == _APPLICATION_ID:
            return
        if self._db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() or found:
            raise RewardError(
                f"{self._path} is a database of something else, not of a judge's answers",
                remedy="Let `cache` name a file of its own.",
            )
        self._db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise RewardError(
                f"the judge's answers in {self._path} cannot be used: {error}",
                remedy="Check the disk and the path, or move the file away: what it holds is asked again.",
            ) from error
