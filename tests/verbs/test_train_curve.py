"""The held-out curve of a run: exact on resume, without effect on training, equal to `pgrpo eval`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.errors import Interrupted, RewardError
from pgrpo_cli.eval.sampling import HeldOutCurve
from pgrpo_cli.state.curve import curve_record, read_curve, rewind_curve
from pgrpo_cli.state.run import RunDirectory
from tests.support.loop import Watcher, go
from tests.support.results import rows_of
from tests.support.training import TINY, outcome, pgrpo, steps_in, write_tiny

EVAL = {"every": 4, "num_completions": 2, "bootstrap_samples": 100, "max_prompts_per_group": 2}


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "eval" / "curve.jsonl").read_text().splitlines()]


def test_a_run_with_a_curve_is_the_same_run_and_goes_on_exactly(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    go(write_tiny(tmp_path / "plain"), tmp_path / "plain" / "run")
    recipe = write_tiny(tmp_path, eval=EVAL)
    watcher = go(recipe, tmp_path / "whole")
    # Before the first step, every four, and after the last.
    assert [line["step"] for line in lines(tmp_path / "whole")] == [0, 4, 6]
    assert [step for step, phase in watcher.events if phase == "evaluation"] == [0, 4, 6]
    with pytest.raises(Interrupted):
        go(recipe, tmp_path / "halting", watcher=Watcher(stop_after=4))
    # A line of a step that its checkpoint does not have, and one that a kill cut short.
    with (tmp_path / "halting" / "eval" / "curve.jsonl").open("a") as file:
        file.write(json.dumps({"step": 5, "macro": 9.0, "groups": {}}) + "\n" + '{"step": 6, "ma')
    go(recipe, tmp_path / "halting")
    whole, halting = (tmp_path / name / "eval" / "curve.jsonl" for name in ("whole", "halting"))
    assert halting.read_bytes() == whole.read_bytes()
    plain, with_curve = outcome(tmp_path / "plain" / "run"), outcome(tmp_path / "whole")
    assert with_curve == outcome(tmp_path / "halting")
    for key in ("data", "metrics", "tables", "adapter"):
        assert with_curve[key] == plain[key], key


def test_a_reward_that_fails_in_an_evaluation_costs_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_tiny(tmp_path, eval=EVAL, train={**TINY["train"], "save_every": 5})
    go(recipe, tmp_path / "whole")
    record = HeldOutCurve.record

    def away(curve: HeldOutCurve, step: int, *rest: Any) -> None:
        if step == 4:
            raise RewardError("the judge is away")
        record(curve, step, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(HeldOutCurve, "record", away)
        with pytest.raises(RewardError):
            go(recipe, tmp_path / "run")
    # The update of step 4 was made before: it is saved as what it is.
    assert steps_in(tmp_path / "run") == ["step-000004"]
    go(recipe, tmp_path / "run")
    whole, run = outcome(tmp_path / "whole"), outcome(tmp_path / "run")
    for key in ("metrics", "tables", "adapter"):
        assert run[key] == whole[key], key
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


def test_a_run_that_begins_anew_is_evaluated_anew(tmp_path: Path) -> None:
    """Its data or its rewards may have changed since it failed in its first step."""
    recipe, curve = write_tiny(tmp_path, eval=EVAL), tmp_path / "run" / "eval" / "curve.jsonl"
    with pytest.raises(Interrupted):
        go(recipe, tmp_path / "run", watcher=Watcher(stop_after=1))
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    before = lines(tmp_path / "run")
    curve.write_text(json.dumps({**before[0], "macro": 9.0}) + "\n")
    go(recipe, tmp_path / "run")
    assert lines(tmp_path / "run")[0] == before[0]


def test_its_last_point_is_what_eval_finds(tmp_path: Path) -> None:
    go(write_tiny(tmp_path, eval=EVAL), tmp_path / "run")
    result = pgrpo("eval", tmp_path / "run", "--json", "--quiet")
    found = json.loads(result.stdout)
    first, *_, last = lines(tmp_path / "run")
    assert last["macro"] == pytest.approx(found["overall"]["macro"]["tuned"]["mean"], abs=1e-12)
    assert first["macro"] == pytest.approx(found["overall"]["macro"]["base"]["mean"], abs=1e-12)
    for group, numbers in last["groups"].items():
        assert numbers["mean"] == pytest.approx(found["groups"][group]["tuned"]["mean"], abs=1e-12)
    assert "Held-out reward during training" in (tmp_path / "run" / "report.html").read_text()


def test_a_line_by_hand(tmp_path: Path) -> None:
    rows = rows_of("tuned", {"calm": {"a": [0.0, 0.2], "b": [0.5]}, "loud": {"x": [1.0]}})
    # Prompts 0.1 and 0.5; macro (0.3 + 1) / 2.
    record = curve_record(3, rows)
    assert record["groups"]["calm"] == {
        "n": 2, "mean": pytest.approx(0.3), "prompts": {"a": pytest.approx(0.1), "b": 0.5}
    }  # fmt: skip
    assert record["macro"] == pytest.approx(0.65)
    missing = curve_record(3, rows_of("tuned", {"calm": {"a": [float("nan")]}}))
    assert missing == {"step": 3, "macro": None, "groups": {}}


def test_without_a_curve_there_is_nothing_to_read(tmp_path: Path) -> None:
    assert read_curve(RunDirectory(tmp_path)) == [] and rewind_curve(RunDirectory(tmp_path), 3) == set()


BEST = {"eval": {**EVAL, "every": 1}, "train": {**TINY["train"], "keep_checkpoints": 2, "keep_best": "macro"}}


def scored(monkeypatch: pytest.MonkeyPatch, macros: Sequence[float]) -> None:
    """The held-out macro after each step, whatever the model does."""

    def made(step: int, rows: Any) -> dict[str, Any]:
        return {**curve_record(step, rows), "macro": macros[step]}

    monkeypatch.setattr("pgrpo_cli.eval.sampling.curve_record", made)


def adapter_of(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def test_the_best_step_is_kept_and_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored(monkeypatch, [0.0, 0.1, 0.5, 0.4, 0.3, 0.2, 0.1])
    recipe, run = write_tiny(tmp_path, **BEST), tmp_path / "run"
    watcher = go(recipe, run)
    assert watcher.messages[-1] == (
        "after step 6 of 6: the adapter is that of step 2, the best of 6 evaluations by macro"
    )
    # Two are kept, and the best one.
    assert steps_in(run) == ["step-000002", "step-000004", "step-000006"]
    assert adapter_of(run / "adapter") == adapter_of(run / "checkpoints" / "step-000002")
    assert adapter_of(run / "adapter") != adapter_of(run / "checkpoints" / "step-000006")
    monkeypatch.undo()
    assert pgrpo("eval", run, "--quiet").exit_code == 0
    assert (run / "eval" / "step-000002.json").exists()


@pytest.mark.parametrize("stops", [(1,), (3,), (2, 5)])
def test_a_run_that_keeps_the_best_goes_on_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops: tuple[int, ...]
) -> None:
    scored(monkeypatch, [0.0, 0.1, 0.5, 0.2, 0.7, 0.6, 0.1])
    recipe = write_tiny(tmp_path, **BEST)
    go(recipe, tmp_path / "whole")
    for stop in stops:
        with pytest.raises(Interrupted):
            go(recipe, tmp_path / "halting", watcher=Watcher(stop_after=stop))
    go(recipe, tmp_path / "halting")
    whole, halting = outcome(tmp_path / "whole"), outcome(tmp_path / "halting")
    assert steps_in(tmp_path / "whole") == ["step-000004", "step-000006"]
    for found in (whole, halting):
        # A stop saves a step that an uninterrupted run does not.
        del found["checkpoints"]
    assert halting == whole


def test_a_run_ends_without_improvement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored(monkeypatch, [0.0, 0.3, 0.2, 0.1, 0.9, 0.9, 0.9])
    sections = {**BEST, "train": {**BEST["train"], "stop_after": 2}}
    recipe, run = write_tiny(tmp_path, **sections), tmp_path / "run"
    watcher = go(recipe, run)
    assert watcher.messages[-1].startswith(
        "after step 3 of 6, where train.stop_after ends training: the adapter is that of step 1"
    )
    assert "for 1 steps of" in (run / "adapter" / "README.md").read_text()
    assert [step for step, phase in watcher.events if phase == "done"] == [1, 2, 3]
    assert steps_in(run) == ["step-000001", "step-000002", "step-000003"]
    assert go(recipe, run).events == []
    # Killed after the last checkpoint and before the adapter was in its place.
    finished = adapter_of(run / "adapter")
    shutil.rmtree(run / "adapter")
    assert [phase for _, phase in go(recipe, run).events] == []
    assert adapter_of(run / "adapter") == finished


def test_a_best_checkpoint_that_is_gone_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored(monkeypatch, [0.0, 0.1, 0.5, 0.4, 0.3, 0.2, 0.1])
    recipe, run = write_tiny(tmp_path, **BEST), tmp_path / "run"
    with pytest.raises(Interrupted):
        go(recipe, run, watcher=Watcher(stop_after=5))
    shutil.rmtree(run / "checkpoints" / "step-000002")
    watcher = go(recipe, run)
    assert "the adapter is that of the last step, since" in watcher.messages[-1]
    assert adapter_of(run / "adapter") == adapter_of(run / "checkpoints" / "step-000006")


@pytest.mark.parametrize("lost", ["whole", "from step 2", "an odd line"])
def test_lost_evaluations_are_said_and_cost_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    scored(monkeypatch, [0.0, 0.1, 0.5, 0.4, 0.3, 0.2, 0.1])
    recipe, run = write_tiny(tmp_path, **BEST), tmp_path / "run"
    with pytest.raises(Interrupted):
        go(recipe, run, watcher=Watcher(stop_after=4))
    assert steps_in(run) == ["step-000002", "step-000004"]
    curve = run / "eval" / "curve.jsonl"
    kept = curve.read_text().splitlines(keepends=True)
    curve.write_text(
        "".join(kept[:2]) + {"whole": "", "from step 2": "{", "an odd line": '{"step": 2}\n' + kept[3]}[lost]
    )
    if lost == "whole":
        curve.unlink()
    watcher = go(recipe, run)
    why, which = "not complete", "2 steps from 2 to 3"
    if lost == "whole":
        why, which = "missing", "4 steps from 0 to 3"
    assert watcher.messages[0] == (
        f"warning: {curve} is {why}; the record of the evaluations of {which} is lost, and training "
        "continues without it; train.keep_best chooses among the others, and this command removes no "
        "checkpoint that is there"
    )
    # Step 4 is evaluated again, the others are added, and the best one of old is still there.
    steps = [line["step"] for line in lines(run)]
    assert steps == ([4, 5, 6] if lost == "whole" else [0, 1, 4, 5, 6])
    assert {"step-000002", "step-000004"} < set(steps_in(run))


def test_what_is_evaluated_again_is_not_lost(tmp_path: Path) -> None:
    recipe, run = write_tiny(tmp_path, eval=EVAL), tmp_path / "run"
    with pytest.raises(Interrupted):
        go(recipe, run, watcher=Watcher(stop_after=4))
    (run / "eval" / "curve.jsonl").write_text(json.dumps(lines(run)[0]) + "\n")
    assert not any("is lost" in message for message in go(recipe, run).messages)
    assert [line["step"] for line in lines(run)] == [0, 4, 6]


def test_a_run_that_is_extended_has_the_curve_of_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 5 was evaluated because it was the last one. With 8 steps it is not, and counts for nothing: with
    it there would have been two evaluations in a row below that of step 2.
    """
    scored(monkeypatch, [0.0, 0.0, 0.3, 0.0, 0.2, 0.1, 0.4, 0.0, 0.5])
    train = {**TINY["train"], "steps": 5, "schedule": "constant", "keep_best": "macro", "stop_after": 2}
    recipe = write_tiny(tmp_path, eval={**EVAL, "every": 2}, train=train)
    go(recipe, tmp_path / "whole", "train.steps=8")
    go(recipe, tmp_path / "run")
    assert [line["step"] for line in lines(tmp_path / "run")] == [0, 2, 4, 5]
    go(recipe, tmp_path / "run", "train.steps=8")
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")
    assert adapter_of(tmp_path / "run" / "adapter") == adapter_of(tmp_path / "whole" / "adapter")
