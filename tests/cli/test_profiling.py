"""`pgrpo train --profile N`: a trace of N steps in which the phases are named; the run is the same."""

import gzip
import json
from collections import Counter

import pytest

from tests.support.training import outcome, pgrpo, write_tiny


def _events(path):
    with gzip.open(path, "rt") as file:
        return Counter(event.get("name") for event in json.load(file)["traceEvents"])


@pytest.mark.parametrize(("asked", "traced"), [(2, 2), (6, 6), (50, 6)], ids=["some", "all", "more than all"])
def test_a_trace_holds_the_steps_asked_for(tmp_path, asked, traced):
    recipe = write_tiny(tmp_path)
    result = pgrpo("train", recipe, "--run-dir", tmp_path / "run", "--profile", asked)
    assert result.exit_code == 0
    (trace,) = (tmp_path / "run/profile").iterdir()
    assert str(trace) in result.stderr
    events = _events(trace)
    assert {phase: events[phase] for phase in ("rollout", "reward", "training", "save")} == dict.fromkeys(
        ("rollout", "reward", "training", "save"), traced
    )
    assert events["aten::mm"] > 0


def test_profiling_changes_nothing_else(tmp_path):
    recipe = write_tiny(tmp_path)
    plain, profiled = tmp_path / "plain", tmp_path / "profiled"
    assert pgrpo("train", recipe, "--run-dir", plain).exit_code == 0
    assert pgrpo("train", recipe, "--run-dir", profiled, "--profile", 1).exit_code == 0
    (first,) = (profiled / "profile").iterdir()
    first.unlink()
    (profiled / "profile").rmdir()
    assert outcome(profiled) == outcome(plain)
