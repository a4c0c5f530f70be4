"""JSON of a run's files: what Python would take and JSON has not is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgrpo_cli.data.strict_json import parse_json, read_json


def test_json_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1, 2.5, null, true, "é", "\\ud83d\\ude00"]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"a": [1, 2.5, None, True, "é", "😀"]}


@pytest.mark.parametrize(
    "text", ["", "{", "NaN", "[Infinity]", "-Infinity", "1e999", b"\xff", "[" * 100_000, r'{"a": ["\ud800"]}']
)
def test_what_is_none_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(text)
