"""What the section of a judge refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.recipe.rewards import DEFAULT_RUBRIC, JudgeReward
from pgrpo_cli.recipe.templates import Template
from tests.support.recipes import changed, load_data, problems_of

JUDGE = {"type": "judge", "base_url": "http://localhost:8000/v1", "model": "m"}


def test_the_default_rubric_has_a_place_for_every_instruction() -> None:
    assert Template(DEFAULT_RUBRIC).variables == {
        "prompt",
        "completion",
        "preference_group",
        "preference_group_rubric",
    }


def test_a_judge_has_a_host(tmp_path: Path) -> None:
    recipe = load_data(tmp_path, changed(rewards=[{**JUDGE, "base_url": "https://Judge.example.org:8/v1/"}]))
    (section,) = recipe.rewards
    assert isinstance(section, JudgeReward)
    assert (section.base_url, section.host) == ("https://Judge.example.org:8/v1", "judge.example.org")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("base_url", "localhost:8000", "must begin with http:// or https:// and name a host"),
        ("base_url", "file:///etc/passwd", "must begin with http:// or https:// and name a host"),
        ("base_url", "http://", "must begin with http:// or https:// and name a host"),
        ("base_url", "http://[::1", "no address: Invalid IPv6 URL"),
        ("base_url", "http://host:port", "no address: Port could not be cast"),
        ("base_url", "https://me:secret@host/v1", "a key belongs into api_key_env"),
        ("base_url", "https://host/v1?key=secret", "a key belongs into api_key_env"),
        ("api_key_env", "sk-a-key-itself", ""),
        (
            "rubric",
            "{{ completion",
            "unexpected end of template, expected 'end of print statement' in line 1",
        ),
        ("rubric", "Fine.\n{{ completion | shout }}", "No filter named 'shout' in line 2 of the template"),
        ("rubric", "{% for a in range(9) %}{% include a %}{% endfor %}{{ completion }}", "no other template"),
        ("rubric", "{{ completions }}", "uses 'completions'; known are prompt, completion, "),
        ("rubric", "{{ completions }}", "did you mean 'completion'?"),
        ("rubric", "{{ prompt }}", "every answer would be judged alike"),
        ("extra_body", {"messages": []}, "must not hold 'messages'"),
        ("extra_body", {"max_completion_tokens": 4000}, "'max_completion_tokens'; set max_tokens"),
        ("scale", [1], ""),
        ("max_failure_share", 1.1, "must be 1 or less"),
        ("concurrency", 0, "must be 1 or more"),
        ("price_per_million_tokens", {"input": 1}, ""),
    ],
)
def test_what_is_refused(tmp_path: Path, key: str, value: Any, said: str) -> None:
    (problem,) = problems_of(tmp_path, changed(rewards=[{**JUDGE, key: value}]))
    assert problem.path[:3] == ("rewards", 0, key)
    assert said in problem.text
