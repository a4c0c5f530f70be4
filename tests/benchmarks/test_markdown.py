"""Tables in documents: written, and renewed where their markers are."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.markdown import renew, table


def test_a_table_by_hand() -> None:
    assert table(["a", "b"], [["1", "2"], ["3", "4"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |"


def test_tables_are_renewed_between_their_own_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- one -->\nold\n<!-- /one -->\n<!-- two -->\nkept\n<!-- /two -->\nafter\n")
    renew(page, "one", "| new |")
    assert page.read_text() == (
        "before\n<!-- one -->\n| new |\n<!-- /one -->\n<!-- two -->\nkept\n<!-- /two -->\nafter\n"
    )
    page.write_text("no markers")
    with pytest.raises(SystemExit, match="has no <!-- one -->"):
        renew(page, "one", "| new |")
    assert page.read_text() == "no markers"
