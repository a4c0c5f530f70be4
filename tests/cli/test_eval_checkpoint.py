"""`pgrpo eval --checkpoint`, from the outside: an evaluated run of two steps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.eval import alignment as evaluate_module
from pgrpo_cli.state import checkpoint as checkpoint_module
from pgrpo_cli.state.run import RunDirectory
from tests.support.disks import unable_to_write
from tests.support.evaluated import KEPT, pgrpo
from tests.support.training import files_in

FIRST = Path("eval", "step-000001.json")


def evaluation(run: Path, path: Path) -> dict[str, Any]:
    return json.loads((run / path).read_text())  # type: ignore[no-any-return]


def rows(run: Path, path: Path, which: str) -> list[dict[str, Any]]:
    return [row for row in evaluation(run, path)["rows"] if row["which"] == which]


def test_it_is_evaluated_beside_the_newest_adapter(run: Path) -> None:
    report, newest = (run / "report.html").read_bytes(), (run / KEPT).read_bytes()
    result = pgrpo("eval", run, "--checkpoint", "1")
    assert result.exit_code == 0, result.output
    assert "run, step 1: mean reward on held-out prompts" in result.stdout
    assert evaluation(run, FIRST)["adapter_hash"] != evaluation(run, KEPT)["adapter_hash"]
    assert rows(run, FIRST, "tuned") != rows(run, KEPT, "tuned")
    assert "after step 1" in (run / FIRST).with_suffix(".html").read_text()
    assert (run / "report.html").read_bytes() == report and (run / KEPT).read_bytes() == newest


def test_evaluations_of_a_run_share_the_base_models_completions(run: Path) -> None:
    shared = pgrpo("eval", run, "--checkpoint", "1")
    assert "tuned model: sampling" in shared.stderr and "base model: sampling" not in shared.stderr
    assert rows(run, FIRST, "base") == rows(run, KEPT, "base")
    found = evaluation(run, FIRST)
    again = pgrpo("eval", run, "--checkpoint", "1", "--fresh")
    assert "base model: sampling" in again.stderr
    assert evaluation(run, FIRST) == found


def test_other_intervals_of_the_same_adapter_share_them_too(run: Path) -> None:
    before = evaluation(run, KEPT)
    result = pgrpo("eval", run, "--set", "eval.confidence=0.9")
    assert "tuned model: sampling" in result.stderr and "base model: sampling" not in result.stderr
    after = evaluation(run, KEPT)
    assert after["rows"] == before["rows"] and after["confidence"] == 0.9


def test_other_sampling_shares_nothing(run: Path) -> None:
    result = pgrpo("eval", run, "--checkpoint", "1", "--set", "eval.temperature=0.5")
    assert result.exit_code == 0 and "base model: sampling" in result.stderr


def test_an_evaluation_that_is_damaged_is_in_nobodys_way(run: Path) -> None:
    (run / KEPT).write_text("{")
    result = pgrpo("eval", run, "--checkpoint", "1")
    assert result.exit_code == 0 and "base model: sampling" in result.stderr


def test_a_step_without_a_checkpoint(run: Path) -> None:
    result = pgrpo("eval", run, "--checkpoint", "7")
    assert result.exit_code == 2
    assert "no checkpoint after step 7; it has: 1, 2" in result.stderr


@pytest.mark.parametrize("words", [(), ("--checkpoint", "1")])
def test_a_checkpoint_is_not_dropped_while_it_is_evaluated(
    run: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(run / "adapter")
    shutil.rmtree(run / "eval")
    real, kept = evaluate_module.load_policy, []

    def after_the_run_went_on(*arguments: Any, **options: Any) -> Any:
        shutil.copytree(run / "checkpoints" / "step-000002", run / "checkpoints" / "step-000003")
        checkpoint_module._drop_old(RunDirectory(run), 1, ())
        kept.extend(sorted(path.name for path in (run / "checkpoints").iterdir()))
        return real(*arguments, **options)

    monkeypatch.setattr(evaluate_module, "load_policy", after_the_run_went_on)
    result = pgrpo("eval", run, *words)
    assert result.exit_code == 0, result.output
    assert kept == [f"step-00000{1 if words else 2}", "step-000003"]


def test_a_run_that_cannot_be_written_is_refused_before_anything_is_sampled(run: Path) -> None:
    before = files_in(run)
    with unable_to_write(run):
        for words in (("eval", run, "--fresh"), ("eval", run, "--checkpoint", "1")):
            result = pgrpo(*words)
            assert result.exit_code == 1
            assert "eval could not be written: Permission denied" in result.stderr
            assert "Make the directory writable" in result.stderr
            assert "sampling" not in result.stderr
        compared = pgrpo("compare", run, run)
        assert compared.exit_code == 2
        assert f"{run} cannot be written" in compared.stderr and "--html" in compared.stderr
    assert files_in(run) == before


def test_an_evaluation_that_is_there_is_shown_where_nothing_can_be_written(run: Path) -> None:
    before = files_in(run)
    with unable_to_write(run):
        result = pgrpo("eval", run)
    assert result.exit_code == 0, result.output
    assert "mean reward on held-out prompts" in result.stdout
    assert "could not be written: Permission denied: its page and table stay as they are" in result.stderr
    assert files_in(run) == before
