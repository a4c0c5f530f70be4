"""The embedded store of a run: every scored completion, and the live statistics of every preference group.

It is an SQLite database in WAL mode, so that it can be read while a run writes. Each step is one transaction.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from pgrpo_cli.data.strict_json import parse_json
from pgrpo_cli.errors import CheckpointError, RunError

from .files import explained, refusal

_PATIENCE_SECONDS = 60.0
"""How long a write waits for another program that has locked the file."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS completions (
    step INTEGER, prompt INTEGER, generation INTEGER, prompt_id TEXT, preference_group TEXT,
    reward REAL, parts TEXT, advantage REAL, length INTEGER, text TEXT,
    PRIMARY KEY (step, prompt, generation)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS preference_groups (
    preference_group TEXT PRIMARY KEY, n REAL, mean REAL, std REAL, first_step INTEGER, last_step INTEGER,
    prompts INTEGER, within_variance REAL, between_variance REAL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS preference_group_parts (
    preference_group TEXT, n REAL, mean REAL, std REAL, first_step INTEGER, last_step INTEGER,
    prompts INTEGER, within_variance REAL, between_variance REAL, part TEXT,
    PRIMARY KEY (preference_group, part)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class ScoredCompletion:
    """A row of `completions`. `prompt` and `generation` count from 0 within the step; reward NaN is stored
    as NULL.
    """

    step: int
    prompt: int
    generation: int
    prompt_id: str
    preference_group: str
    reward: float | None
    parts: str
    advantage: float
    length: int
    text: str


@dataclass(frozen=True)
class GroupRow:
    """A row of `preference_groups`: the reward history of one preference group. Variances may be unknown."""

    preference_group: str
    n: float
    mean: float
    std: float | None
    first_step: int
    last_step: int
    prompts: int
    within_variance: float | None
    between_variance: float | None

    def numbers(self) -> dict[str, Any]:
        """The statistics by name."""
        return {f.name: getattr(self, f.name) for f in fields(GroupRow) if f.name != "preference_group"}


@dataclass(frozen=True)
class PartRow(GroupRow):
    """A row of `preference_group_parts`: the history of one part of the rewards of one preference group."""

    part: str


class HistoryStore:
    """Writes the store. To be used as a context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._usable():
            self._db = sqlite3.connect(path, isolation_level=None, timeout=_PATIENCE_SECONDS)
            try:
                _refuse_programs(self._db)
                self._db.execute("PRAGMA journal_mode=WAL")
                # A checkpoint is durable once it has its name; the steps up to it must be so before.
                self._db.execute("PRAGMA synchronous=FULL")
                self._db.executescript(_SCHEMA)
                _refuse_other_tables(self._db)
            except BaseException:
                self._db.close()
                raise

    def __enter__(self) -> HistoryStore:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Turn errors of the disk, and of a file that is not a valid store, into CheckpointError."""
        try:
            with explained(str(self._path)):
                yield
        except sqlite3.IntegrityError:
            raise
        except sqlite3.DatabaseError as error:
            raise CheckpointError(
                f"{self._path} cannot be used: {error}",
                remedy="Move it away and run again: the reward history itself comes from the checkpoint, "
                "only the record of earlier completions is lost.",
            ) from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._usable():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def record_step(
        self,
        completions: Iterable[ScoredCompletion],
        groups: Iterable[GroupRow],
        parts: Iterable[PartRow] = (),
    ) -> None:
        """Store one step: its completions, and the new statistics of its preference groups."""
        with self._transaction():
            self._db.executemany(
                "INSERT INTO completions VALUES (?,?,?,?,?,?,?,?,?,?)", (astuple(row) for row in completions)
            )
            self._put(groups, parts)

    def rewind(self, step: int, groups: Iterable[GroupRow], parts: Iterable[PartRow] = ()) -> None:
        """Delete everything after `step`. `groups` and `parts` are the statistics at that step."""
        with self._transaction():
            self._db.execute("DELETE FROM completions WHERE step > ?", (step,))
            self._db.execute("DELETE FROM preference_groups")
            self._db.execute("DELETE FROM preference_group_parts")
            self._put(groups, parts)

    def steps(self) -> set[int]:
        """The steps that have completions."""
        with self._usable():
            return {step for (step,) in self._db.execute("SELECT DISTINCT step FROM completions")}

    def _put(self, groups: Iterable[GroupRow], parts: Iterable[PartRow]) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO preference_groups VALUES (?,?,?,?,?,?,?,?,?)",
            (astuple(row) for row in groups),
        )
        self._db.executemany(
            "INSERT OR REPLACE INTO preference_group_parts VALUES (?,?,?,?,?,?,?,?,?,?)",
            (astuple(row) for row in parts),
        )


def read_groups(path: Path) -> list[GroupRow]:
    """The statistics of all preference groups, most seen first. Works while a run writes."""
    return _rows_of(GroupRow, path, "FROM preference_groups ORDER BY n DESC, preference_group")


def read_parts(path: Path) -> dict[str, list[PartRow]]:
    """The statistics of every part by preference group, of a run that normalizes each part by itself."""
    found: dict[str, list[PartRow]] = {}
    for row in _rows_of(PartRow, path, "FROM preference_group_parts ORDER BY preference_group, part"):
        found.setdefault(row.preference_group, []).append(row)
    return found


def read_curves(path: Path) -> list[tuple[int, str, float, int]]:
    """(step, preference group, mean reward, completions scored) for every step and preference group in it."""
    points = _query(
        path,
        "SELECT step, preference_group, avg(reward), count(reward) FROM completions WHERE reward IS NOT NULL "
        "GROUP BY step, preference_group ORDER BY step, preference_group",
    )
    _refuse_other_types(path, points, (int, str, float, int))
    return points  # type: ignore[return-value]


def read_latest(path: Path, steps: int) -> tuple[list[ScoredCompletion], list[GroupRow]]:
    """The completions of the latest `steps` steps in order of training, and the statistics of their
    preference groups. Earlier completions are not read. Works while a run writes.
    """
    latest = "FROM completions WHERE step > (SELECT max(step) FROM completions) - ?"
    completions = _rows_of(ScoredCompletion, path, f"{latest} ORDER BY step, prompt, generation", (steps,))
    groups = _rows_of(
        GroupRow,
        path,
        "FROM preference_groups WHERE preference_group IN "
        f"(SELECT preference_group {latest}) ORDER BY preference_group",
        (steps,),
    )
    return completions, groups


def read_first(path: Path, steps: int) -> list[ScoredCompletion]:
    """The completions of the first `steps` steps in order of training. Works while a run writes."""
    rest = "FROM completions WHERE step <= ? ORDER BY step, prompt, generation"
    return _rows_of(ScoredCompletion, path, rest, (steps,))


def encode_parts(parts: Mapping[str, float]) -> str:
    """Reward parts as JSON text; NaN becomes null."""
    return json.dumps({k: None if v != v else v for k, v in parts.items()}, sort_keys=True)


def decode_parts(text: str) -> dict[str, float | None]:
    """What `encode_parts` wrote. Raises RunError where it is something else."""
    try:
        parts = parse_json(text)
        if all(value is None or isinstance(value, int | float) for value in parts.values()):
            return dict(parts)
    except (ValueError, AttributeError):
        pass
    raise RunError(
        f"history.sqlite is damaged: {text[:80]!r} stands for the parts of a reward", remedy=_NOT_OURS
    )


_NOT_OURS = (
    "Is it the history.sqlite of a run, as that wrote it? `pgrpo train` makes a new one if it is moved away."
)
_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
    "float | None": (float, int, type(None)),
}
R = TypeVar("R", ScoredCompletion, GroupRow, PartRow)


def _rows_of(row: type[R], path: Path, rest: str, parameters: Sequence[Any] = ()) -> list[R]:
    """The rows that `SELECT` with the columns of `row` and the `rest` gives, of the types that it names."""
    columns = {field.name: _TYPES[str(field.type)] for field in fields(row)}
    found = _query(path, f"SELECT {', '.join(columns)} {rest}", parameters)
    _refuse_other_types(path, found, tuple(columns.values()))
    return [row(*values) for values in found]


def _refuse_other_types(
    path: Path, rows: Iterable[tuple[Any, ...]], types: Sequence[type | tuple[type, ...]]
) -> None:
    """SQLite stores what it is given, whatever the type of the column."""
    for row in rows:
        for value, expected in zip(row, types, strict=True):
            if not isinstance(value, expected) or (isinstance(value, float) and not math.isfinite(value)):
                raise RunError(f"{path} is damaged: {str(value)[:80]!r} stands in a row", remedy=_NOT_OURS)


def _query(path: Path, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Rows of a run's store. One that a run has made just now, and not yet filled, has none."""
    if not path.is_file():
        raise RunError(f"{path} does not exist", remedy="Train the run first, or check the path.")
    uri = path.resolve().as_uri()
    # Before SQLite looks, since it begins a log itself.
    logged = _has_log(path)
    try:
        try:
            return _rows(f"{uri}?mode=ro", sql, parameters)
        except sqlite3.OperationalError:
            # Where nothing can be written, SQLite reads a file only if it may take it for immutable; with
            # nothing in a log beside it, it is.
            if logged:
                raise
            return _rows(f"{uri}?immutable=1", sql, parameters)
    except sqlite3.DatabaseError as error:
        if "no such table" in str(error):
            return []
        refused = refusal(error)
        remedy = f"{refused[1]} and run the same command again." if refused else _NOT_OURS
        raise RunError(f"{path} cannot be read: {error}", remedy=remedy) from error


def _has_log(path: Path) -> bool:
    """Whether a log beside the file holds anything."""
    with suppress(FileNotFoundError):
        return path.with_name(f"{path.name}-wal").stat().st_size > 0
    return False


def _refuse_other_tables(db: sqlite3.Connection) -> None:
    """Raises sqlite3.DatabaseError where tables have other columns or rules than those of the schema."""
    with closing(sqlite3.connect(":memory:")) as new:
        new.executescript(_SCHEMA)
        expected = new.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall()
    unique = db.execute("SELECT name FROM sqlite_master WHERE sql LIKE 'CREATE UNIQUE%'").fetchone()
    if unique or not set(expected) <= set(db.execute("SELECT name, sql FROM sqlite_master")):
        raise sqlite3.DatabaseError("its tables are not those of a run")


def _refuse_programs(db: sqlite3.Connection) -> None:
    """Raises sqlite3.DatabaseError for a file with views or triggers: a stranger's could run for ever."""
    found = db.execute("SELECT type, name FROM sqlite_master WHERE type IN ('view', 'trigger')").fetchone()
    if found:
        raise sqlite3.DatabaseError("it holds the {} {!r}, and a run writes none".format(*found))


def _rows(uri: str, sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(uri, uri=True, timeout=_PATIENCE_SECONDS)) as db:
        _refuse_programs(db)
        return db.execute(sql, parameters).fetchall()
