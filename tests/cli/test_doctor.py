"""`pgrpo doctor`: what it says of an ill run, of a healthy one, of one that is running, and of none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.diagnosis.rules import RULES
from pgrpo_cli.state.run import RunDirectory
from tests.support.made_runs import STEPS, Made, make
from tests.support.training import pgrpo


def examined(run: Path) -> dict[str, Any]:
    result = pgrpo("doctor", run, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def test_an_ill_run_is_no_failure(tmp_path: Path) -> None:
    run = make(tmp_path / "run", Made(finished=0.0, grad_norm=6.0)).path
    result = pgrpo("doctor", run)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == "2 findings after 50 steps:"
    assert lines[2] == "note: cut-at-limit"
    assert lines[3].startswith("  100 % of the completions in the last 10 steps were cut at ")
    assert lines[4].startswith("  What to do: Set rollout.max_completion_tokens=128, ")
    assert "note: gradients-clipped" in lines
    assert "Not a fault:" in lines
    # Only an evaluation can answer it.
    assert lines[lines.index("Not checked:") + 1 :][0].startswith(
        "  - Does the model serve preference groups"
    )
    assert lines[-1].endswith("try a change with `pgrpo train RECIPE --fresh --set …`.")
    found = examined(run)
    assert (found["run"], found["step"]) == (str(run), STEPS)
    assert [finding["rule"] for finding in found["findings"]] == ["cut-at-limit", "gradients-clipped"]
    assert found["findings"][0]["numbers"] == {"share": 1.0, "limit": 64}
    assert sorted([*found["answered"], *found["unanswered"]]) == sorted(rule.asks for rule in RULES)
    assert len(found["unanswered"]) == 1
    assert [text[:17] for text in found["normal"]] == ["A loss below 0 (m", "A KL of 0 at the "]


def test_of_a_healthy_run_it_says_what_was_checked(tmp_path: Path) -> None:
    run = make(tmp_path / "run", Made(kl=lambda progress: None, recipe={"loss__beta": 0.0})).path
    lines = pgrpo("doctor", run).stdout.splitlines()
    assert lines[:3] == ["Nothing found after 50 steps.", "", "Checked:"]
    checked = [line for line in lines if line.startswith("  - ")]
    for rule in RULES:
        (line,) = [line for line in checked if line.startswith(f"  - {rule.asks}")]
        assert ("loss.beta above 0" in line) == (rule.name == "kl-explodes")
    assert not any("--fresh" in line for line in lines)


def test_a_running_run_may_be_looked_at(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    def look(run: RunDirectory, record: dict[str, Any]) -> None:
        if record["step"] in (1, 20):
            seen.append(examined(run.path))

    make(tmp_path / "run", Made(finished=0.0), on_step=look)
    assert [found["step"] for found in seen] == [1, 20]
    assert [len(found["findings"]) for found in seen] == [0, 1]
    assert seen[0]["answered"] == []


@pytest.mark.parametrize("begun", [False, True])
def test_what_is_no_run_gets_a_message(begun: bool, tmp_path: Path) -> None:
    run = tmp_path / "run"
    if begun:
        make(run, steps=1).history_path.unlink()
    result = pgrpo("doctor", run)
    assert result.exit_code == 2
    assert "error: " in result.stderr and "\n  " in result.stderr
    assert "Train the run first" in result.stderr if begun else "there is no such run" in result.stderr
