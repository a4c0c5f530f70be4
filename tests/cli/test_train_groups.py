"""`pgrpo groups`: the reward history of a finished run and of one that is running."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pgrpo_cli.cli.display import LineDisplay
from tests.support.history import read_completions
from tests.support.training import ROWS, pgrpo, trained, write_tiny

GROUP_KEYS = {"n", "mean", "std", "first_step", "last_step"}


def groups_of(run: Path) -> dict[str, dict[str, Any]]:
    result = pgrpo("groups", run, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def test_groups_of_a_finished_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained(write_tiny(tmp_path), run)
    groups = groups_of(run)
    assert set(groups) == set(ROWS)
    assert all(set(row) >= GROUP_KEYS for row in groups.values())
    # 6 steps of 3 prompts with 4 completions each.
    assert sum(row["n"] for row in groups.values()) == 72
    assert all(1 <= row["first_step"] <= row["last_step"] <= 6 for row in groups.values())
    for name, row in groups.items():
        completions = read_completions(run / "history.sqlite", preference_group=name)
        rewards = torch.tensor([completion["reward"] for completion in completions], dtype=torch.float64)
        assert row["n"] == len(rewards)
        assert row["mean"] == pytest.approx(rewards.mean().item())
        assert row["std"] == pytest.approx(rewards.std().item())
    text = pgrpo("groups", run).stdout
    table = {words[0]: words for line in text.splitlines() if (words := line.split())}
    assert set(ROWS) <= set(table)
    assert "within" in text
    often = groups["often"]
    # G = 4; 10 prompts are enough. GRPO's efficiency: 3/4 · (mean σ_G)² / (mean σ_G² · share of σ_G > 0).
    predicted = often["efficiency"]
    completions = read_completions(run / "history.sqlite", preference_group="often")
    rewards = torch.tensor([completion["reward"] for completion in completions], dtype=torch.float64)
    deviations = rewards.view(-1, 4).std(dim=1)
    kept = deviations.mean() ** 2 / (deviations**2).mean() / (deviations > 0).double().mean()
    assert (often["prompts"], predicted["grpo"]) == (11, pytest.approx(3 / 4 * kept.item()))
    assert predicted["pgrpo_adaptive"] == pytest.approx(1 - often["weight"] / 4)
    assert often["advice"] in ("pgrpo", "pgrpo_adaptive")
    assert (groups["é"]["prompts"], groups["é"]["weight"], groups["é"]["advice"]) == (1, None, None)
    assert text.splitlines()[-1].startswith("Predicted efficiency at G = 4: ")
    own = f"{predicted['grpo']:.2f}"
    assert f"pgrpo {predicted['pgrpo']:.2f}, grpo {own}" in text
    assert table["grpo"][1:] == ["0.32", own, "0.81", "0.91"]
    assert table["often"][1:4] == [str(often["prompts"]), f"{often['n']:.0f}", f"{often['mean']:.4f}"]


def test_groups_of_a_running_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, seen = tmp_path / "run", []
    real = LineDisplay.on_step

    def on_step(self: LineDisplay, record: Any, groups: Any) -> None:
        real(self, record, groups)
        if record["step"] == 3:
            seen.append(groups_of(run))

    monkeypatch.setattr(LineDisplay, "on_step", on_step)
    trained(write_tiny(tmp_path), run)
    assert sum(row["n"] for row in seen[0].values()) == 36
    assert max(row["last_step"] for row in seen[0].values()) == 3


def test_groups_of_a_run_that_has_just_begun(tmp_path: Path) -> None:
    run = tmp_path / "run"
    steps = {"steps": 1, "prompts_per_step": 3, "learning_rate": 0.01}
    trained(write_tiny(tmp_path, train=steps), run)
    assert "Too early to tell which estimator suits" in pgrpo("groups", run).stdout


def test_groups_where_there_is_no_run(tmp_path: Path) -> None:
    result = pgrpo("groups", tmp_path / "nowhere", "--json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "there is no such run" in result.stderr
