"""The held-out curve: lines of another shape end it, and are no traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.state.curve import append_record, read_curve, read_prompts
from pgrpo_cli.state.run import RunDirectory

LINE = {"macro": 0.5, "groups": {"a": {"n": 2, "mean": 0.5, "prompts": {"p": 0.5}}}}


@pytest.mark.parametrize(
    "wrong",
    [
        {}, {"groups": None}, {"groups": {"a": 3}}, {"groups": {"a": {"n": 2}}},
        {"groups": {"a": {"n": 2.5, "mean": 1}}}, {"groups": {"a": {"n": 2, "mean": None}}},
        {"groups": {"a": {"n": 2, "mean": 1, "prompts": 3}}}, {"groups": {"a": {"n": 2, "mean": "high"}}},
    ],
)  # fmt: skip
def test_a_line_of_another_shape_ends_the_curve(wrong: dict[str, Any], tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    append_record(run, {"step": 1, **LINE})
    with (tmp_path / "eval" / "curve.jsonl").open("a") as file:
        file.write(json.dumps({"step": 2, **wrong}) + "\n")
    append_record(run, {"step": 3, **LINE})
    assert read_curve(run) == [(1, "a", 0.5, 2)]
    assert read_prompts(run) == {1: {"a": {"p": 0.5}}}
