"""What sections of rewards that look at the text refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.recipes import changed, problems_of


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        ({"pattern": "[a"}, "not a regular expression: unterminated character set at position 0"),
        ({"pattern": "a{99999999999999999999}"}, "not a regular expression: the repetition number is too"),
        ({"pattern": "(" * 4000 + ")" * 4000}, "not a regular expression: it is nested too deeply"),
        ({"type": "keyword", "keywords": ["- - - x"]}, "'- - - x' has a hyphen beside a blank"),
    ],
)
def test_what_is_refused(tmp_path: Path, reward: dict[str, Any], said: str) -> None:
    (problem,) = problems_of(tmp_path, changed(rewards=[{"type": "regex", **reward}]))
    assert problem.path[:3] == ("rewards", 0, "keywords" if "keywords" in reward else "pattern")
    assert said in problem.text


@pytest.mark.parametrize(
    "reward",
    [{"pattern": r"^(\d+)-\1$"}, {"type": "keyword", "keywords": ["well-known", "-", ":-)", "hip hop"]}],
)
def test_what_is_taken(tmp_path: Path, reward: dict[str, Any]) -> None:
    assert problems_of(tmp_path, changed(rewards=[{"type": "regex", **reward}])) == ()
