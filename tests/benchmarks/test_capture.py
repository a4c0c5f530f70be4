"""The small policy that can be captured: what it is before training, by hand, and the study in small."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from benchmarks import capture, captured_run
from benchmarks.capture import BASE, CHANGES, MOMENTS, SHARES_K, Policy, Setting, captured, tables, train
from pgrpo_cli.recipe.load import load_recipe


def test_success_before_training_is_what_the_world_says() -> None:
    first_K = (0.3, 0.1, 0.01, 0.0)
    found = Policy(Setting(first_K=first_K), 2).success()
    torch.testing.assert_close(found, torch.tensor([first_K] * 2, dtype=torch.float64))


def test_the_first_step_moves_logits_by_the_rate_and_own_ones_by_a_part_of_it() -> None:
    """Adam's first step is 1 in size. The gradient of -log p of answer 0 to preference group 0 lowers all
    other logits and raises that one: by rate * (1 + tag) for this preference group, by the rate for others.
    """
    policy = Policy(Setting(rate=0.4, tag=0.25), 1)
    before = policy.logprobs().detach()
    policy.step(-policy.logprobs()[0, 0, 0])
    moved = policy.logprobs().detach() - before
    # Against another answer, whose logit has moved the other way.
    assert (moved[0, 0, 0] - moved[0, 0, 15]).item() == pytest.approx(2 * 0.4 * 1.25, rel=1e-4)
    assert (moved[0, 1, 0] - moved[0, 1, 15]).item() == pytest.approx(2 * 0.4, rel=1e-4)


def test_a_balanced_step_has_four_prompts_of_each() -> None:
    points = torch.rand(3, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for row in capture._groups(True, points):
        assert row.bincount(minlength=4).tolist() == [4, 4, 4, 4]
    many = capture._groups(False, torch.rand(1, 100_000, dtype=torch.float64))[0].bincount(minlength=4)
    assert (many / 100_000).tolist() == pytest.approx(SHARES_K, abs=0.01)


def test_who_counts_as_captured() -> None:
    start = [0.1, 0.1]
    ends = {(0.9, 0.05): True, (0.9, 0.1): False, (0.4, 0.05): False, (0.05, 0.9): True}
    runs = torch.tensor([[start, end] for end in ends], dtype=torch.float64)
    assert captured(runs).tolist() == list(ends.values())


@pytest.mark.parametrize("estimator", capture.ESTIMATORS)
def test_a_replica_depends_on_its_own_seed_only(estimator: str) -> None:
    setting = Setting(steps=MOMENTS, completions=8)
    both = train(setting, estimator, [3, 5])
    assert both.shape == (2, MOMENTS + 1, 4)
    assert torch.equal(both[1:], train(setting, estimator, [5]))
    assert not torch.equal(both[0], both[1])


def test_a_kl_penalty_holds_the_policy_near_its_start() -> None:
    free, held = (
        train(Setting(steps=20, completions=64, beta=beta), "pgrpo", range(4)) for beta in (0.0, 100.0)
    )
    assert (held[:, -1] - held[:, 0]).abs().max() < (free[:, -1] - free[:, 0]).abs().max() / 2


def test_what_the_documentation_says_holds_for_eight_seeds() -> None:
    """32 of 40 runs are captured, 5 of 40 with the balanced sampler: of eight more than half, and fewer."""
    plain, balanced = (
        int(captured(train(Setting(balanced=balanced), "pgrpo", range(8))).sum())
        for balanced in (False, True)
    )
    assert plain > 4 > balanced


def test_the_study_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "WORLDS", {"a world": (Setting(steps=10), ("none", "half the rate"))})
    page, kept = tmp_path / "page.md", tmp_path / "capture.json"
    page.write_text("before\n<!-- capture -->\n<!-- /capture -->\nafter\n")
    words = ["capture.py", "--seeds", "2", "--write", str(page), "--json", str(kept)]
    monkeypatch.setattr(sys, "argv", words)
    capture.main()
    rows = json.loads(kept.read_text())
    assert [row["change"] for row in rows] == ["none", "half the rate"]
    text = page.read_text()
    assert text.startswith("before\n<!-- capture -->\na world:\n") and text.endswith("-->\nafter\n")
    assert f"| half the rate | {rows[1]['captured']['grpo']} of 2 |" in text


def test_every_change_changes_something() -> None:
    settings = [{**vars(BASE), **keys} for keys in CHANGES.values()]
    assert all(one not in settings[:n] for n, one in enumerate(settings))
    assert tables([], 2) == ""


def test_the_task_on_a_language_model_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["captured_run.py", str(tmp_path / "task")])
    captured_run.main()
    recipe = load_recipe(tmp_path / "task" / "captured.yaml")
    counts = Counter(row["preference_group"] for row in captured_run.rows())
    assert counts == captured_run.PROMPTS and sum(counts.values()) == 100
    assert [reward.preference_groups for reward in recipe.rewards] == [("A",), ("B",), ("C",), ("D",)]
    # All ask for the same things, and one line a prompt is written.
    asked = {row["prompt"].partition(": ")[2] for row in captured_run.rows()}
    assert len(asked) == captured_run.PROMPTS["A"]
    assert len((tmp_path / "task" / "captured.jsonl").read_text().splitlines()) == 100
