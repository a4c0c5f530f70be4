import json
import os
import shutil
import signal
import sqlite3

import pytest

from pgrpo_cli.errors import CheckpointError, RunError
from pgrpo_cli.state.history_store import (
    GroupRow,
    HistoryStore,
    ScoredCompletion,
    encode_parts,
    read_curves,
    read_first,
    read_groups,
    read_latest,
    read_parts,
)
from tests.support.disks import fill, small_disk, unable_to_write
from tests.support.history import read_completions
from tests.support.processes import CONTEXT


def _completion(step, generation, reward, group="a"):
    return ScoredCompletion(
        step, 0, generation, f"prompt-{step}", group, reward, encode_parts({"style": 0.5}), 0.25, 7, "text"
    )


def _group(name, n, last_step):
    return GroupRow(name, n, 0.5, 0.1, 1, last_step, n // 2, 0.01, None)


@pytest.fixture
def path(tmp_path):
    """A store of three steps of two completions each."""
    path = tmp_path / "history.sqlite"
    with HistoryStore(path) as store:
        for step in (1, 2, 3):
            rows = [_completion(step, 0, float(step)), _completion(step, 1, None if step == 2 else 0.0)]
            store.record_step(rows, [_group("a", 2 * step, step)])
    return path


def test_rows_come_back_in_order_with_their_parts(path):
    rows = read_completions(path)
    assert [(row["step"], row["generation"], row["reward"]) for row in rows] == [
        (1, 0, 1.0), (1, 1, 0.0), (2, 0, 2.0), (2, 1, None), (3, 0, 3.0), (3, 1, 0.0),
    ]  # fmt: skip
    assert rows[0]["parts"] == {"style": 0.5}
    assert read_completions(path, preference_group="b") == []


def test_curves_leave_missing_rewards_out(path):
    # Step 1: (1 + 0) / 2; step 2: 2 alone; step 3: (3 + 0) / 2.
    assert read_curves(path) == [(1, "a", 0.5, 2), (2, "a", 2.0, 1), (3, "a", 1.5, 2)]


def test_rewinding_forgets_later_steps_and_restores_the_statistics(path):
    with HistoryStore(path) as store:
        store.rewind(1, [_group("a", 2, 1)])
        store.record_step([_completion(2, 0, 9.0)], [_group("b", 4, 2)])
    assert [(row["step"], row["reward"]) for row in read_completions(path)] == [(1, 1.0), (1, 0.0), (2, 9.0)]
    assert [(row.preference_group, row.n) for row in read_groups(path)] == [("b", 4), ("a", 2)]


def test_a_step_is_stored_whole_or_not_at_all(path):
    with HistoryStore(path) as store, pytest.raises(sqlite3.IntegrityError):
        # The second row has the key of the first: the first must not stay either.
        store.record_step([_completion(4, 0, 1.0), _completion(4, 0, 2.0)], [_group("a", 8, 4)])
    assert max(row["step"] for row in read_completions(path)) == 3
    assert read_groups(path)[0].n == 6


def test_readers_look_on_while_a_run_writes(path):
    with HistoryStore(path) as store:
        store.record_step([_completion(4, 0, 1.0)], [_group("a", 8, 4)])
        assert read_groups(path)[0].last_step == 4


def _write_until_killed(path):
    """A step that is stored, and one in whose middle the process is killed."""

    def rows():
        yield _completion(5, 0, 1.0)
        os.kill(os.getpid(), signal.SIGKILL)
        yield _completion(5, 1, 1.0)

    with HistoryStore(path) as store:
        store.record_step([_completion(4, 0, 1.0)], [_group("a", 8, 4)])
        store.record_step(rows(), [_group("a", 10, 5)])


def test_a_kill_within_a_step_leaves_the_steps_before(path):
    process = CONTEXT.Process(target=_write_until_killed, args=(path,))
    process.start()
    process.join(600)
    assert process.exitcode == -signal.SIGKILL
    assert read_groups(path)[0].last_step == 4
    with HistoryStore(path) as store:
        assert store.steps() == {1, 2, 3, 4}


def _write_many(path, steps):
    with HistoryStore(path) as store:
        for step in range(4, steps + 1):
            store.record_step([_completion(step, g, 1.0) for g in range(4)], [_group("a", 4 * step, step)])


def test_readers_in_another_process_see_whole_steps(path):
    process = CONTEXT.Process(target=_write_many, args=(path, 300))
    process.start()
    seen = set()
    while process.is_alive():
        (group,) = read_groups(path)
        rows = [row for row in read_completions(path) if row["step"] > 3]
        assert len(rows) % 4 == 0
        # Rows are read after the statistics, so they are never behind them.
        assert len(rows) // 4 >= group.last_step - 3
        seen.add(group.last_step)
    assert process.exitcode == 0
    assert len(seen) > 1


def test_a_store_that_is_just_being_made_has_no_rows(tmp_path):
    (tmp_path / "history.sqlite").touch()
    assert read_groups(tmp_path / "history.sqlite") == []
    assert read_curves(tmp_path / "history.sqlite") == []


def test_parts_that_are_missing_are_null():
    assert json.loads(encode_parts({"b": float("nan"), "a": 1.0})) == {"a": 1.0, "b": None}


def test_what_is_no_store(tmp_path):
    with pytest.raises(RunError, match="does not exist"):
        read_groups(tmp_path / "history.sqlite")
    (tmp_path / "history.sqlite").write_text("something else entirely" * 100)
    with pytest.raises(RunError, match="cannot be read"):
        read_groups(tmp_path / "history.sqlite")


READERS = {
    "groups": read_groups,
    "parts": read_parts,
    "curves": read_curves,
    "latest": lambda path: read_latest(path, 10),
    "first": lambda path: read_first(path, 10),
}
TAMPERED = {
    "another column": ("DROP TABLE preference_groups; CREATE TABLE preference_groups (a)", "groups"),
    "text for a number": ("UPDATE preference_groups SET mean = 'high'", "groups"),
    "bytes for a name": ("UPDATE preference_groups SET preference_group = x'00'", "groups"),
    "a fraction of a step": ("UPDATE preference_groups SET last_step = 2.5", "groups"),
    "infinity": ("UPDATE preference_groups SET mean = 9e999", "groups"),
    "text for a step": ("UPDATE completions SET step = 'x' WHERE step = 3 AND generation = 0", "curves"),
    "no text": ("UPDATE completions SET text = NULL", "latest"),
    "a number for a name": ("UPDATE completions SET prompt_id = x'00' WHERE step = 1", "first"),
    "text for a length": ("UPDATE completions SET length = 'long'", "latest"),
    "a table for ever": (
        "DROP TABLE completions; CREATE VIEW completions AS WITH RECURSIVE r(step) AS "
        "(SELECT 1 UNION ALL SELECT step + 1 FROM r) SELECT step FROM r",
        "curves",
    ),
}


@pytest.mark.parametrize(("sql", "reader"), TAMPERED.values(), ids=TAMPERED)
def test_what_no_run_has_stored_is_a_message(path, sql, reader):
    with sqlite3.connect(path) as db:
        db.executescript(sql)
    with pytest.raises(RunError, match=r"history\.sqlite (is damaged|cannot be read)"):
        READERS[reader](path)


@pytest.mark.parametrize("parts", ["", "{", "[]", '{"a": "x"}', '{"a": [1]}', "[" * 100_000])
def test_parts_of_a_reward_that_are_none_are_a_message(path, parts):
    with sqlite3.connect(path) as db:
        db.execute("UPDATE completions SET parts = ?", (parts,))
    with pytest.raises(RunError, match="stands for the parts of a reward"):
        read_completions(path)


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE completions; CREATE TABLE completions (step INTEGER)",
        "DROP TABLE preference_groups; CREATE TABLE preference_groups (a CHECK (a > 0))",
        "CREATE TRIGGER t AFTER INSERT ON completions BEGIN DELETE FROM completions; END",
        "CREATE UNIQUE INDEX i ON preference_groups (prompts)",
        "DROP TABLE completions; CREATE VIEW completions AS SELECT 1",
    ],
)
def test_a_run_writes_into_its_own_tables_only(path, sql):
    with sqlite3.connect(path) as db:
        db.executescript(sql)
    with pytest.raises(CheckpointError, match=r"history\.sqlite cannot be used: .*run"):
        HistoryStore(path)


@pytest.mark.parametrize("log", [None, b""], ids=["no log", "empty log"])
def test_a_store_is_read_on_a_full_disk(path, tmp_path, log):
    with small_disk(tmp_path / "disk", 200) as disk:
        store = shutil.copy(path, disk / "history.sqlite")
        if log is not None:
            (disk / "history.sqlite-wal").write_bytes(log)
        fill(disk)
        for _ in range(2):
            assert read_groups(store)[0].last_step == 3


def test_a_log_that_cannot_be_read_on_a_full_disk_is_a_message(path, tmp_path):
    with small_disk(tmp_path / "disk", 200) as disk:
        with HistoryStore(path) as store:
            store.record_step([_completion(4, 0, 1.0)], [_group("a", 8, 4)])
            # As a kill leaves it; SQLite makes its index of the log anew.
            for name in ("history.sqlite", "history.sqlite-wal"):
                shutil.copy(path.with_name(name), disk / name)
        fill(disk)
        with pytest.raises(RunError, match="cannot be read") as caught:
            read_groups(disk / "history.sqlite")
        assert "Free some space" in caught.value.remedy


def test_a_store_with_an_empty_log_is_read_where_nothing_can_be_written(path):
    path.with_name("history.sqlite-wal").touch()
    with unable_to_write(path.parent):
        assert read_groups(path)[0].last_step == 3
