"""The pages in a headless Chromium: nothing asked for, nothing complained about, tables that sort."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgrpo_cli.report.page import eval_page
from tests.report.test_page import PAGES
from tests.support.browser import CHROMIUM, Tab, opened
from tests.support.results import result_of, rows_of, spread

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")

NAMES = "[...document.querySelector('table.sorts').tBodies[0].rows].map((row) => row.cells[0].textContent)"


def saved(source: str, tmp_path: Path) -> Path:
    path = tmp_path / "page.html"
    path.write_text(source, encoding="utf-8")
    return path


def click(tab: Tab, column: int) -> tuple[list[str], str | None]:
    """The first table's row names after a click on that column's head, and the order that the head tells."""
    head = f"document.querySelector('table.sorts').tHead.rows[0].cells[{column}]"
    tab.evaluate(f"{head}.querySelector('button').click()")
    return tab.evaluate(NAMES), tab.evaluate(f"{head}.getAttribute('aria-sort')")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("kind", PAGES)
def test_it_opens_without_request_or_complaint_and_fits(
    kind: str, width: int, dark: bool, tmp_path: Path
) -> None:
    path = saved(PAGES[kind](), tmp_path)
    with opened(path, width, dark=dark) as tab:
        assert tab.requests == [path.resolve().as_uri()]
        assert tab.complaints == []
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)")


def test_another_script_or_image_is_refused_and_told(tmp_path: Path) -> None:
    evil = "<script>document.title = 'taken'</script><img src='https://example.invalid/x.png'>"
    path = saved(PAGES["eval"]().replace("</main>", f"{evil}</main>"), tmp_path)
    with opened(path, 1200) as tab:
        assert tab.evaluate("document.title") != "taken"
        assert len([told for told in tab.complaints if "Content Security Policy" in told]) == 2


def test_a_table_sorts_by_a_column_and_goes_back(tmp_path: Path) -> None:
    tuned = spread({"b": 0.3, "a10": -0.25, "a9": 0.1})
    base = spread({"b": 0.0, "a10": 0.0, "a9": 0.0})
    result = result_of(base, tuned).model_copy(
        update={"rows": rows_of("base", base) + rows_of("tuned", tuned)}
    )
    summaries = ["macro mean", "weighted mean"]
    with opened(saved(eval_page(result, []), tmp_path), 1200) as tab:
        before = tab.evaluate(NAMES)
        # Tuned: 0.3, 0.1, -0.25; the means over preference groups stay below.
        assert click(tab, 2) == (["b", "a9", "a10", *summaries], "descending")
        assert click(tab, 2) == (["a10", "a9", "b", *summaries], "ascending")
        assert click(tab, 2) == (before, None)
        # Names from A, numbers in them by size.
        assert click(tab, 0) == (["a9", "a10", "b", *summaries], "ascending")
        assert click(tab, 2)[1] == "descending"
        assert tab.evaluate("document.querySelectorAll('th[aria-sort]').length") == 1
        assert tab.complaints == []


def test_a_column_of_words_sorts_from_a(tmp_path: Path) -> None:
    # c: clearly better, b: clearly worse, a: the same completions.
    tuned, base = spread({"a": 0.0, "b": -1.0, "c": 1.0}), spread({"a": 0.0, "b": 0.0, "c": 0.0})
    rows = rows_of("base", base, text="{index}") + rows_of("tuned", tuned, text="{index}")
    result = result_of(base, tuned).model_copy(update={"rows": rows})
    with opened(saved(eval_page(result, []), tmp_path), 1200) as tab:
        verdicts = tab.evaluate(NAMES.replace("cells[0]", "cells[4].firstChild"))
        assert verdicts[1:3] == ["behind", "ahead"] and verdicts[0] not in verdicts[1:3]
        names, order = click(tab, 4)
        assert (names[:2], order) == (["c", "b"], "ascending")
        names, order = click(tab, 4)
        assert (names[1:3], order) == (["b", "c"], "descending")


@pytest.mark.parametrize("width", [360, 1200])
def test_a_heat_map_of_many_groups_is_readable_and_scrolls(width: int, tmp_path: Path) -> None:
    groups = {f"group {i}": 0.1 for i in range(32)}
    with opened(saved(eval_page(result_of(spread(groups), spread(groups)), []), tmp_path), width) as tab:
        # The size of 12 units of the drawing on the screen.
        scale = "(map) => 12 * map.getBoundingClientRect().width / map.viewBox.baseVal.width"
        sizes = tab.evaluate(f"[...document.querySelectorAll('.maps svg')].map({scale})")
        assert len(sizes) == 2 and min(sizes) >= 11.9
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
