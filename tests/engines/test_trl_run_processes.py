"""A recipe in several processes of torchrun: one run directory, whichever process is killed, and when."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.training import SMOKE, TINY, pgrpo, tables, write_tiny
from tests.support.trl_processes import ROOT, SAFE, TORCHRUN, assert_whole, torchrun, train_words

pytestmark = pytest.mark.slow
STEPS = 16


def test_smoke_in_two_processes_is_a_run_as_any(tmp_path):
    run = tmp_path / "run"
    done = torchrun(2, *train_words(SMOKE, run), env=SAFE)
    assert done.returncode == 0, done.stderr
    # Only the first process speaks.
    assert done.stdout.count("finished: the adapter is in") == 1
    assert done.stderr.count("step 8/8 ") == 1
    assert_whole(run, steps=8, completions=16)
    for command in (("groups", run), ("doctor", run), ("eval", run), ("compare", run, run)):
        assert pgrpo(*command).exit_code == 0
    # The same command again has nothing to do, in two processes or in one.
    again = torchrun(2, *train_words(SMOKE, run), env=SAFE)
    assert again.returncode == 0 and again.stdout.count("is finished") == 1
    assert pgrpo(*train_words(SMOKE, run)[1:]).stdout.count("is finished") == 1


class Launched:
    """torchrun with a run in several processes, one of which can be killed."""

    def __init__(self, count, folder, *words):
        command = [sys.executable, *TORCHRUN, str(count), "-m", *words]
        environment = {**os.environ, **SAFE, "OMP_NUM_THREADS": "1"}
        self._log = (folder / f"launch-{time.monotonic_ns()}").open("w+")
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=self._log, stderr=self._log, start_new_session=True
        )

    def kill(self, rank, condition, delay=0.0):
        """kill -9 of one process `delay` seconds after `condition` holds; the launcher ends the others, and
        itself.
        """
        deadline = time.monotonic() + 120
        while not (condition() and self._process_of(rank)):
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.001)
        time.sleep(delay)
        os.kill(self._process_of(rank), signal.SIGKILL)
        assert self.process.wait(90) != 0

    def _process_of(self, rank):
        """Its number; None before it has been started."""
        for folder in Path("/proc").iterdir():
            if not folder.name.isdecimal():
                continue
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                environment = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if parent == self.process.pid and f"RANK={rank}".encode() in environment:
                return int(folder.name)
        return None

    @property
    def output(self):
        self._log.flush()
        self._log.seek(0)
        return self._log.read()


def lines_in(run):
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def saving(run):
    """TRL writes a checkpoint, or we do."""
    return any((run / "checkpoints").glob(".step-*.tmp"))


def test_killed_at_several_moments_it_goes_on_in_another_number_of_processes(tmp_path):
    # 12 completions a step: for one, two or three processes.
    section = {**TINY["train"], "steps": STEPS, "save_every": 2}
    recipe, run = write_tiny(tmp_path, train=section), tmp_path / "run"
    moments = [
        # In the middle of a step, of the process that does not write.
        (2, 1, lambda: lines_in(run) >= 3),
        # In the middle of a step, of the process that writes.
        (2, 0, lambda: lines_in(run) >= 7),
        # While a checkpoint is written, of either.
        (2, 0, lambda: lines_in(run) >= 9 and saving(run)),
        (3, 2, lambda: lines_in(run) >= 12 and saving(run)),
    ]
    for count, rank, condition in moments:
        Launched(count, tmp_path, *train_words(recipe, run)).kill(rank, condition)
        assert not (run / "adapter").exists()
    result = pgrpo(*train_words(recipe, run)[1:])
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("resumed from step ")
    assert_whole(run, steps=STEPS, completions=12)
    assert not saving(run)


def test_killed_at_ten_random_moments_it_is_whole_in_one_process_and_in_three(tmp_path):
    """Ten launches of the smoke recipe in two processes; each is killed, the one process or the other."""
    draw = random.Random(27)
    # 12 completions a step, for one, two or three processes.
    options = ["--set", "train.prompts_per_step=3", "--set", "train.steps=60"]
    run, moments = tmp_path / "run", []
    for number in range(10):
        rank, further = number % 2, draw.randrange(4)
        # While the processes start and read the checkpoint, or at any point of one of the next steps.
        delay = draw.uniform(0, 0.4 if further else 8)
        before = lines_in(run)
        launch = Launched(2, tmp_path, *train_words(SMOKE, run, *options))
        launch.kill(rank, lambda least=before + further: lines_in(run) >= least, delay)
        moments.append(f"rank {rank} {delay:.2f} s after step {before + further}: {lines_in(run)} recorded")
        assert not (run / "adapter").exists()
    (tmp_path / "moments").write_text("\n".join(moments))
    whole = tmp_path / "whole"
    assert pgrpo(*train_words(SMOKE, whole, *options)[1:]).exit_code == 0
    shutil.copytree(run, tmp_path / "three")
    alone = pgrpo(*train_words(SMOKE, run, *options)[1:])
    assert alone.exit_code == 0 and alone.stdout.startswith("resumed from step "), alone.stderr
    done = torchrun(3, *train_words(SMOKE, tmp_path / "three", *options), env=SAFE)
    assert done.returncode == 0 and done.stdout.startswith("resumed from step "), done.stderr
    for path in (run, tmp_path / "three"):
        assert_whole(path, steps=60, completions=12)
        assert counted(path) == counted(whole)
        assert not saving(path)


def counted(run):
    """Rewards in the history of each preference group, and the prompt of each completion of each step."""
    rows = tables(run / "history.sqlite")
    counts = sorted((row[0], row[1]) for row in rows["preference_groups"])
    return counts, sorted((row[0], row[3], row[2]) for row in rows["completions"])


def test_a_stop_signal_saves_the_step_at_hand_and_prints_the_command(tmp_path):
    section = {**TINY["train"], "steps": 300, "save_every": 100}
    recipe, run = write_tiny(tmp_path, train=section), tmp_path / "run"
    launched = Launched(2, tmp_path, *train_words(recipe, run))
    deadline = time.monotonic() + 120
    while lines_in(run) < 3:
        assert launched.process.poll() is None and time.monotonic() < deadline, launched.output
        time.sleep(0.01)
    launched.process.send_signal(signal.SIGTERM)
    assert launched.process.wait(60) != 0
    assert "Go on with: PYTHONSAFEPATH=1 torchrun --nproc_per_node 2 -m pgrpo_cli train" in launched.output
    (checkpoint,) = (run / "checkpoints").glob("step-*")
    steps = lines_in(run)
    assert checkpoint.name == f"step-{steps:06d}"
    assert_whole(run, steps=steps, completions=12)


def test_what_the_first_process_refuses_ends_all_with_its_message_once(tmp_path):
    recipe, run = write_tiny(tmp_path), tmp_path / "run"
    run.mkdir()
    (run / "mine.txt").write_text("not a run")
    done = torchrun(2, *train_words(recipe, run), env=SAFE)
    assert done.returncode != 0
    assert done.stderr.count("is not a run's directory") == 1
