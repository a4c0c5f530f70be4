"""The study of regimes: its statistics by hand, and the whole of it in small."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import regimes
from benchmarks.regimes import components, measured, sign_flip_p
from benchmarks.small_policy import Trained, World
from pgrpo_cli.algo.history import RewardHistory


def test_sign_flips_by_hand() -> None:
    # 1, 2, 3: of 8 signs two give a sum as large as 6. Of 1, 2, -3 (sum 0) all do.
    assert sign_flip_p(torch.tensor([1.0, 2.0, 3.0]).double()) == pytest.approx(2 / 8, abs=0.005)
    assert sign_flip_p(torch.tensor([1.0, 2.0, -3.0]).double()) == 1.0
    assert sign_flip_p(torch.tensor([1.0] * 30).double()) == pytest.approx(1e-5, rel=1e-3)
    assert sign_flip_p(torch.zeros(5).double()) == 1.0


def test_measures_by_hand() -> None:
    # One replica, three moments, the majority and two others.
    curves = torch.tensor([[[0.0, 0.0, 0.0], [0.3, 0.0, 0.3], [0.9, 0.3, 0.6]]])
    found = {name: values[0] for name, values in measured(Trained(curves, [])).items()}
    assert found == pytest.approx(
        {"area": 2.4 / 9, "final": 0.6, "worst": 0.3, "majority": 0.9, "minority": 0.45}
    )


def test_components_by_hand() -> None:
    """a: two prompts 0 2 | 4 6; b: 0 20 | 0 20, alike."""
    history = RewardHistory()
    history.update([0, 2, 4, 6, 0, 20, 0, 20], ["a"] * 4 + ["b"] * 4, num_generations=2, step=1)
    # a: s² = 4 / 2, between = 4 · 2² = 16, τ² = (16 - 2) / (4 - 8 / 4) = 7, w = 7 / (7 + 2 / 2) = 7/8.
    # b: s² = 400 / 2, no τ².
    trained = Trained(torch.zeros(1, 1, 2), [list(history.stats().values())])
    found = components(trained, World(num_generations=2))
    assert found == pytest.approx({"weight": 7 / 16, "weight_spread": 7 / 8, "spread_ratio": 10.0})


def test_the_study_in_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "regimes.json"
    chosen = ["baseline", "history after"]
    monkeypatch.setattr(sys, "argv", ["regimes.py", "--quick", "--json", str(results), "--regimes", *chosen])
    regimes.main()
    found = json.loads(results.read_text())
    assert list(found["regimes"]) == chosen
    for regime in found["regimes"].values():
        assert set(regime["estimators"]) == {*regimes.ESTIMATORS, regimes.RANDOM}
        for scores in regime["estimators"].values():
            assert scores["learning_rate"] in regimes.LEARNING_RATES
            assert scores["tuning"][regimes.LEARNING_RATES.index(scores["learning_rate"])] == max(
                scores["tuning"]
            )
            assert {len(values) for values in scores["measures"].values()} == {3}
            assert all(0 < value < 1 for value in scores["measures"]["area"])
        area = {name: scores["measures"]["area"] for name, scores in regime["estimators"].items()}
        pairs = zip(area["pgrpo"], area["grpo"], strict=True)
        mean = sum(ours - theirs for ours, theirs in pairs) / 3
        assert regime["contrasts"]["pgrpo - grpo"]["interval"]["mean"] == pytest.approx(mean)
    # The order of update changes P-GRPO and nothing that knows no history.
    baseline, after = (found["regimes"][name]["estimators"] for name in chosen)
    assert baseline["grpo"]["measures"] == after["grpo"]["measures"]
    assert baseline["pgrpo"]["measures"] != after["pgrpo"]["measures"]
    assert "| history after |" in capsys.readouterr().out
