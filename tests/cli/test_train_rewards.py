"""Rewards of the user's own that are refused, raise, or return something that is no number."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgrpo_cli.state.history_store import read_groups
from tests.support.history import read_completions
from tests.support.training import files_in, metrics, outcome, pgrpo, steps_in, trained, write_tiny

LENGTHS = "[float(len(c)) for c in completions]"


def write(folder: Path, body: str) -> Path:
    """The tiny recipe with a Python reward; `body` is what its function returns, or a `raise`."""
    statement = body if body.startswith("raise") else f"return {body}"
    (folder / "mine.py").write_text(
        "import math\ncalls = []\n\ndef reward(prompts, completions, prompt_id, **columns):\n"
        f"    calls.append(1)\n    {statement}\n"
    )
    return write_tiny(folder, rewards=[{"type": "python", "file": "mine.py"}])


def test_code_is_not_run_unless_allowed(tmp_path: Path) -> None:
    recipe = write(tmp_path, LENGTHS)
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    result = pgrpo("train", recipe, "--run-dir", tmp_path / "run")
    assert result.exit_code == 2
    assert str(tmp_path / "mine.py") in result.stderr
    assert "add --allow-code" in result.stderr
    assert not (tmp_path / "ran").exists()


# In the first two steps a reward is called once each, with 12 completions; then it breaks.
@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        ("[1 / 0]", "reward 'python' raised ZeroDivisionError: division by zero; prompt "),
        ("['good'] * len(completions)", "reward 'python' returned 'good' (str), which is no finite number"),
        ("'good'", "it returned 'good' where a list of numbers was due"),
        ("None", "it returned None where a list of numbers was due"),
        ("[1.0]", "reward 'python' returned 1 values for 12 completions"),
        ("[math.inf] * 12", "returned inf"),
    ],
)
def test_a_broken_reward_says_where_and_can_be_put_right(tmp_path: Path, breaks: str, said: str) -> None:
    recipe = write(tmp_path, LENGTHS)
    run = tmp_path / "run"
    assert pgrpo("train", recipe, "--run-dir", tmp_path / "whole", "--allow-code").exit_code == 0
    write(tmp_path, f"{LENGTHS} if len(calls) < 3 else {breaks}")
    result = pgrpo("train", recipe, "--run-dir", run, "--allow-code")
    assert result.exit_code == 1
    assert said in result.stderr
    assert "preference group" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("  ")
    assert "Traceback" not in result.stderr
    assert steps_in(run) == ["step-000002"]
    write(tmp_path, LENGTHS)
    again = pgrpo("train", recipe, "--run-dir", run, "--allow-code", "--accept-changes")
    assert again.stdout.startswith("resumed from step 2\n")
    assert outcome(run) == outcome(tmp_path / "whole")


def test_a_reward_without_a_value_gives_no_signal(tmp_path: Path) -> None:
    body = (
        "[None if i % 4 == 0 else math.nan if i % 4 == 1 else float(i % 4) for i in range(len(completions))]"
    )
    run = tmp_path / "run"
    result = pgrpo("train", write(tmp_path, body), "--run-dir", run, "--allow-code")
    assert result.exit_code == 0
    rows = read_completions(run / "history.sqlite")
    assert {(row["generation"], row["reward"]) for row in rows} == {(0, None), (1, None), (2, 2.0), (3, 3.0)}
    assert {row["advantage"] for row in rows if row["reward"] is None} == {0.0}
    # Two of four completions count in each of 6 steps x 3 prompts.
    assert sum(group.n for group in read_groups(run / "history.sqlite")) == 36


def test_a_run_of_steps_without_any_reward_says_so_in_every_line(tmp_path: Path) -> None:
    recipe = write(tmp_path, "[math.nan] * len(completions)")
    result = pgrpo("train", recipe, "--run-dir", tmp_path / "run", "--allow-code")
    assert result.exit_code == 0
    assert result.stderr.count("reward -") == 6
    assert {(line["reward_mean"], line["missing_rewards"]) for line in metrics(tmp_path / "run")} == {
        (None, 12)
    }
    assert pgrpo("groups", tmp_path / "run", "--json").stdout == "{}\n"


def test_a_reward_that_was_changed_in_between_stops_a_run_that_goes_on(tmp_path: Path) -> None:
    code = "def reward(prompts, completions, **_):\n    return [{} for _ in completions]\n"
    recipe = write_tiny(tmp_path, rewards=[{"type": "python", "file": "mine.py"}])
    run, mine = tmp_path / "run", tmp_path / "mine.py"
    mine.write_text(code.format("len(_)"))
    trained(recipe, run, "--allow-code")
    (run / "adapter").rename(tmp_path / "away")
    before = files_in(run)
    mine.write_text(code.format("0.5"))
    refused = pgrpo("train", recipe, "--run-dir", run, "--allow-code")
    assert refused.exit_code == 2
    assert "from step 6, but what it was trained with has changed: rewards.0.file\n" in refused.stderr
    assert files_in(run) == before
    accepted = trained(recipe, run, "--allow-code", "--accept-changes")
    assert "warning: from step 6 on the run continues with other rewards.0.file\n" in accepted.stderr
    (run / "adapter").rename(tmp_path / "away too")
    run.rename(tmp_path / "renamed")
    assert "warning" not in trained(recipe, tmp_path / "renamed", "--allow-code").stderr


def test_a_run_without_a_fingerprint_gets_one(tmp_path: Path) -> None:
    recipe = write_tiny(tmp_path)
    trained(recipe, tmp_path / "run")
    (tmp_path / "run" / "fingerprint.json").unlink()
    (tmp_path / "run" / "adapter").rename(tmp_path / "away")
    assert "warning" not in trained(recipe, tmp_path / "run").stderr
    assert (tmp_path / "run" / "fingerprint.json").is_file()
