import json
import sys
from types import SimpleNamespace

import pytest

from pgrpo_cli.errors import RecipeError
from pgrpo_cli.recipe.training import LogSection
from pgrpo_cli.state.runlog import RunLog, flatten, open_trackers, read_metrics


class _Recorder:
    def __init__(self):
        self.calls = []

    def log(self, step, numbers):
        self.calls.append((step, numbers))

    def close(self):
        self.calls.append("closed")


def test_a_line_a_step_and_flat_numbers_for_trackers(tmp_path):
    tracker = _Recorder()
    log = RunLog(tmp_path / "metrics.jsonl", [tracker])
    record = {"step": 1, "loss": 0.5, "kl": None, "groups": {"a": {"n": 2, "mean": 1.5}}}
    log.append(record)
    log.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == [record]
    assert tracker.calls == [
        (1, {"step": 1.0, "loss": 0.5, "groups/a/n": 2.0, "groups/a/mean": 1.5}),
        "closed",
    ]


def test_flatten_keeps_numbers_only():
    assert flatten({"a": 1, "b": {"c": 2.5, "d": "text", "e": True}, "f": None}) == {"a": 1.0, "b/c": 2.5}


def test_rewinding_drops_later_lines_and_a_line_cut_short(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3)) + '{"step": 4, "lo')
    log = RunLog(path)
    log.rewind(2)
    log.append({"step": 3})
    assert [record["step"] for record in read_metrics(path)] == [1, 2, 3]
    RunLog(tmp_path / "none.jsonl").rewind(2)
    assert not (tmp_path / "none.jsonl").exists()


def test_a_tracker_whose_package_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RecipeError, match="'wandb', which is not installed") as error:
        open_trackers(LogSection(trackers=("wandb",)), tmp_path, {})
    assert "pip install wandb" in error.value.remedy


def test_trackio_gets_the_project_the_run_and_the_numbers(tmp_path, monkeypatch):
    run = SimpleNamespace(logged=[], finished=False)
    run.log = lambda numbers, step: run.logged.append((step, numbers))
    run.finish = lambda: setattr(run, "finished", True)
    asked = {}
    monkeypatch.setitem(
        sys.modules, "trackio", SimpleNamespace(init=lambda **words: asked.update(words) or run)
    )
    (tracker,) = open_trackers(
        LogSection(trackers=("trackio",), project="mine"), tmp_path / "run-1", {"seed": 3}
    )
    tracker.log(4, {"loss": 0.5})
    tracker.close()
    assert asked == {"project": "mine", "name": "run-1", "config": {"seed": 3}}
    assert (run.logged, run.finished) == ([(4, {"loss": 0.5})], True)
