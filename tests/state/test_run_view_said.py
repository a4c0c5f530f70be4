"""findings.json: what has been said is remembered, and a damaged file costs no more than a repetition."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pgrpo_cli.diagnosis.finding import Finding
from pgrpo_cli.state.run import RunDirectory
from pgrpo_cli.state.run_view import not_yet_said, read_said, record_said


def finding(rule: str, preference_group: str | None = None, part: str | None = None) -> Finding:
    return Finding(rule, preference_group, "note", "says é.", "remedy.", {"n": 1.5}, part)


def test_what_is_said_is_not_new(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert read_said(run) == []
    first = [finding("a"), finding("b", "x"), finding("c", None, "p")]
    said = record_said(run, [], first, 10)
    assert read_said(run) == said
    later = [finding("a"), finding("b", "y"), finding("c", None, "q"), finding("c", None, "p")]
    assert not_yet_said(later, said) == [later[1], later[2]]
    record_said(run, said, [later[1]], 15)
    entries = json.loads(run.findings_path.read_text(encoding="utf-8"))
    assert [(entry["step"], entry["rule"], entry["preference_group"]) for entry in entries] == [
        (10, "a", None), (10, "b", "x"), (10, "c", None), (15, "b", "y"),
    ]  # fmt: skip
    assert entries[1]["says"] == "says é." and entries[1]["numbers"] == {"n": 1.5}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[{",
        b"3",
        b'[{"rule": "a"}]',
        b"\xff",
        b"[4]",
        b"null",
        b'[{"rule": ["a"], "preference_group": null, "part": null}]',
        b"[" * 100_000,
    ],
)
def test_a_damaged_file_is_no_memory(content: bytes, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.findings_path.write_bytes(content)
    assert read_said(run) == []
