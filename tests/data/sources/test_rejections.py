from pgrpo_cli.data.records import RejectedRow
from pgrpo_cli.data.sources.rejections import Rejections
from pgrpo_cli.data.summary import count_reasons


def test_all_rows_are_counted_and_the_first_of_each_reason_listed():
    rejections = Rejections(listed=2)
    for line in range(1, 6):
        rejections.add(RejectedRow("odd" if line % 2 else "even", f"line {line}", "f", line))
    assert rejections.count == 5
    assert rejections.first.line == 1
    assert [(row.reason, row.detail) for row in rejections.rows()] == [
        ("odd", "line 1"),
        ("odd", "line 3"),
        ("odd", "3 rows in all, of which 2 are listed"),
        ("even", "line 2"),
        ("even", "line 4"),
    ]
    # 5 rows, 3 of them odd: the third odd one is counted in a row of its own.
    assert [row.count for row in rejections.rows()] == [1, 1, 1, 1, 1]
    assert count_reasons(rejections.rows()) == {"odd": 3, "even": 2}


def test_rows_that_are_not_listed_are_counted_in_one():
    rejections = Rejections(listed=1)
    for line in range(1, 6):
        rejections.add(RejectedRow("short", "", "f", line, left_out=True))
    assert [(row.count, row.left_out) for row in rejections.rows()] == [(1, True), (4, True)]


def test_rows_are_counted_by_file():
    rejections = Rejections()
    rejections.looked_at("f")
    rejections.looked_at("g", 3)
    rejections.looked_at("f")
    assert rejections.rows_by_file == {"f": 2, "g": 3}
