"""The simulation of people who are placed by their picks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import placement
from benchmarks.placement import NOBODY, placed, rewards_of_answers, shares_placed
from pgrpo_cli.data.sources.persona_texts import QUOTES
from pgrpo_cli.rewards.personas import PERSONAS


def test_each_persona_likes_answers_of_its_style_best() -> None:
    rewards_A_K = rewards_of_answers()
    styles = [style for style, quotes in QUOTES.items() for _ in quotes]
    assert rewards_A_K.shape == (len(styles), len(PERSONAS))
    for place, persona in enumerate(PERSONAS.values()):
        means = {style: rewards_A_K[[found == style for found in styles], place].mean() for style in QUOTES}
        assert max(means, key=lambda style: means[style]) == persona.style


def test_one_who_always_picks_by_a_reward_is_placed_there() -> None:
    # Answers that one persona likes and no other: 20 picks without a slip leave no doubt.
    rewards_A_K = np.eye(NOBODY)
    found = placed(rewards_A_K, 3, 50.0, "most telling", 20, np.random.default_rng(0))
    assert found[-1] == 3
    assert len(found) == 20


@pytest.mark.parametrize("way", placement.WAYS)
def test_placing_is_far_from_chance_and_the_same_each_time(way: str) -> None:
    members, nobodies = shares_placed(4, 2.0, way, after=(1, 12))
    # By chance 1/8: of 28 people 9 or more are placed right once in 200 times.
    assert members[1].mean > max(members[0].mean, 9 / 28)
    assert len(nobodies) == 2
    assert shares_placed(4, 2.0, way, after=(1, 12)) == (members, nobodies)


def test_the_script_prints_and_writes_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(placement, "SHARPNESS", (2.0,))
    monkeypatch.setattr(sys, "argv", ["placement.py", "--users", "1", "--json", str(tmp_path / "p.json")])
    placement.main()
    rows = json.loads((tmp_path / "p.json").read_text())["rows"]
    assert [(row["pairs"], row["people"]) for row in rows] == [
        (way, who) for way in placement.WAYS for who in ("the seven personas", "nobody")
    ]
    assert "| 2 | most telling | nobody |" in capsys.readouterr().out
