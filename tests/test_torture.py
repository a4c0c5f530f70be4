"""kill -9 at any moment: the run goes on and ends as if nothing had happened."""

from __future__ import annotations

import random
import time

import pytest

from tests.support.smoke import remains, settings, start, wait_for_steps


def _finish(run_dir, options):
    process = start(run_dir, *options)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return out


def _kill_repeatedly(run_dir, options, *, kills, seed):
    """Start the run and kill it within a few steps, `kills` times; the lines about resuming of each start."""
    rng = random.Random(seed)
    resumed = []
    for _ in range(kills):
        process = start(run_dir, *options)
        seen = wait_for_steps(process, rng.randint(1, 6))
        assert seen[-1].startswith("step "), "".join(seen)
        time.sleep(rng.uniform(0, 0.1))
        assert process.poll() is None, "the run ended before it could be killed: give it more steps"
        process.kill()
        out, _ = process.communicate()
        resumed.append([line for line in out.splitlines() if line.startswith("resumed from step ")])
    return resumed


def _survives(tmp_path, *, steps, kills):
    options = settings(train__steps=steps, train__save_every=2)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    _finish(whole, options)
    resumed = _kill_repeatedly(killed, options, kills=kills, seed=kills)
    out = _finish(killed, options)
    assert sum(line.startswith("resumed from step ") for line in out.splitlines()) == 1
    assert any(resumed), "no kill hit a run that had a checkpoint"
    ours, theirs = remains(killed), remains(whole)
    for name, value in theirs.items():
        assert ours[name] == value, name
    assert len(theirs["metrics"]) == steps


def test_a_few_kills(tmp_path):
    _survives(tmp_path, steps=60, kills=3)


@pytest.mark.slow
def test_torture_of_twenty_kills(tmp_path):
    _survives(tmp_path, steps=250, kills=20)
