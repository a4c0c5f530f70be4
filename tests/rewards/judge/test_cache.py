"""What is kept of a judge's answers: whole after a kill, shared, refused where it is something else."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from pgrpo_cli.errors import RewardError
from pgrpo_cli.rewards.judge.cache import JudgeCache


def test_what_was_kept_is_found_again(tmp_path):
    path = tmp_path / "judge.sqlite"
    with closing(JudgeCache(path)) as cache:
        cache.put("q", 7.5, "Score: 7.5")
        assert cache.get("q") == 7.5
        assert cache.get("other") is None
    with closing(JudgeCache(path)) as cache:
        assert cache.get("q") == 7.5
    assert [file.name for file in tmp_path.iterdir()] == ["judge.sqlite"]


def test_two_share_a_file(tmp_path):
    with closing(JudgeCache(tmp_path / "c")) as one, closing(JudgeCache(tmp_path / "c")) as other:
        one.put("q", 1.0, "1")
        assert other.get("q") == 1.0
        other.put("q", 2.0, "2")
        assert one.get("q") == 2.0


KILLED = """
import os, signal, sys
from pathlib import Path
from pgrpo_cli.rewards.judge.cache import JudgeCache
cache = JudgeCache(Path(sys.argv[1]))
for i in range(1000):
    cache.put(str(i), float(i), "x" * 1000)
    print(i, flush=True)
    if i == 100:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_loses_nothing_that_was_kept(tmp_path):
    path = tmp_path / "judge.sqlite"
    child = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, env=dict(os.environ), check=False
    )
    assert child.returncode == -signal.SIGKILL
    assert child.stdout.split()[-1] == b"100"
    with closing(JudgeCache(path)) as cache:
        assert [cache.get(str(i)) for i in range(101)] == list(range(101))


@pytest.mark.parametrize("create", ["CREATE TABLE cookies (name)", "PRAGMA application_id = 7"])
def test_a_database_of_something_else_is_left_alone(tmp_path, create):
    path = tmp_path / "cookies.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.execute(create)
        db.commit()
    before = path.read_bytes()
    with pytest.raises(RewardError, match="is a database of something else"):
        JudgeCache(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "hostile",
    [
        # A view that never ends, and something that happens with every answer that is kept.
        "DROP TABLE scores; CREATE VIEW scores AS WITH RECURSIVE n(question, score) AS "
        "(SELECT 'q', 1.0 UNION ALL SELECT question, score + 1 FROM n) SELECT * FROM n",
        "CREATE TRIGGER t AFTER INSERT ON scores BEGIN DELETE FROM scores; END",
    ],
)
def test_a_database_that_does_more_than_hold_scores_is_refused(tmp_path, hostile):
    JudgeCache(tmp_path / "c").close()
    with closing(sqlite3.connect(tmp_path / "c")) as db:
        db.executescript(hostile)
    with pytest.raises(RewardError, match="is a database of something else"):
        JudgeCache(tmp_path / "c")


@pytest.mark.parametrize("score", ["9e999", "'high'", "x'00'"])
def test_what_is_no_score_is_not_taken_for_one(tmp_path, score):
    with closing(JudgeCache(tmp_path / "c")) as cache:
        with closing(sqlite3.connect(tmp_path / "c")) as db:
            db.execute(f"INSERT INTO scores VALUES ('q', {score}, '')")
            db.commit()
        with pytest.raises(RewardError, match="a score that is no number"):
            cache.get("q")


def test_what_is_no_database_is_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("no database" * 100)
    with pytest.raises(RewardError, match="cannot be used: file is not a database"):
        JudgeCache(path)
    assert path.read_text() == "no database" * 100


def test_a_folder_that_does_not_exist_is_explained(tmp_path):
    with pytest.raises(RewardError, match=r"gone/judge\.sqlite cannot be used: unable to open"):
        JudgeCache(tmp_path / "gone" / "judge.sqlite")
