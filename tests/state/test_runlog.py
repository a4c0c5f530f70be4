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


def test_steps_that_are_left_are_returned(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 3}\n{"step": 4}\n')
    assert RunLog(path).rewind(3) == {1, 3}
    assert RunLog(tmp_path / "none.jsonl").rewind(3) == set()


@pytest.mark.parametrize(
    "broken",
    [
        b'{"step": 2, "a": "\xc3',
        b"[2]",
        b"2",
        b'{"loss": 2}',
        b'{"step": null}',
        b"",
        b'{"step": "2"}',
        b'{"step": 2.0}',
        b'{"step": true}',
        b'{"step": 2, "loss": NaN}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_record_ends_the_log(tmp_path, broken):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + broken + b'\n{"step": 3}\n')
    assert read_metrics(path) == [{"step": 1}]
    assert RunLog(path).rewind(3) == {1}
    assert path.read_bytes() == b'{"step": 1}\n'


@pytest.mark.parametrize(
    "value", ['"x"', "[]", '{"a": "x"}', '{"n": {"mean": []}}', "1e300", "1" + "0" * 400]
)
def test_a_record_of_anything_but_numbers_is_not_read_and_not_lost(tmp_path, value):
    path = tmp_path / "metrics.jsonl"
    content = f'{{"step": 1}}\n{{"step": 2, "loss": {value}}}\n{{"step": 3}}\n'.encode()
    path.write_bytes(content)
    assert read_metrics(path) == [{"step": 1}]
    assert RunLog(path).rewind(3) == {1, 2, 3}
    assert path.read_bytes() == content


def test_a_name_with_a_line_separator_stays_in_its_line(tmp_path):
    log = RunLog(tmp_path / "metrics.jsonl")
    for step in (1, 2):
        log.append({"step": step, "groups": {"a\u2028b\x85c": {"n": 1}}})
    assert log.rewind(2) == {1, 2}
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]


def test_a_line_that_lacks_only_its_end_is_kept_and_ended(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}')
    RunLog(path).rewind(2)
    RunLog(path).append({"step": 3})
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n{"step": 3}\n'


def test_leaving_closes_the_trackers(tmp_path):
    tracker = _Recorder()
    with pytest.raises(KeyError), RunLog(tmp_path / "metrics.jsonl", [tracker]):
        raise KeyError
    assert tracker.calls == ["closed"]


def test_tensorboard_forgets_steps_that_come_again(tmp_path, monkeypatch):
    calls = []

    class Writer:
        def __init__(self, folder, purge_step):
            calls.append((folder, purge_step))

        def add_scalar(self, key, value, step):
            calls.append((key, value, step))

        def close(self):
            calls.append("closed")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    (tracker,) = open_trackers(LogSection(trackers=("tensorboard",)), tmp_path, {}, first_step=5)
    tracker.log(5, {"loss": 0.5})
    tracker.close()
    assert calls == [(str(tmp_path / "tensorboard"), 5), ("loss", 0.5, 5), "closed"]


def test_tensorboard_itself(tmp_path):
    pytest.importorskip("tensorboard")
    (tracker,) = open_trackers(LogSection(trackers=("tensorboard",)), tmp_path, {})
    tracker.log(1, {"loss": 0.5})
    tracker.close()
    assert list((tmp_path / "tensorboard").glob("events*"))
