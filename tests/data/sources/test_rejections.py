from pgrpo_cli.data.records import RejectedRow
from pgrpo_cli.data.sources.rejections import Rejections


def test_all_rows_are_counted_and_the_first_of_each_reason_listed():
    rejections = Rejections(listed=2)
    for line in range(1, 6):
        rejections.add(RejectedRow("odd" if line % 2 else "even", f"line {line}", "f", line))
    assert rejections.count == 5
    assert rejections.first.line == 1
    assert [(row.reason, row.detail) for row in rejections.rows()] == [
        ("odd", "line 1"),
        ("odd", "line 3"),
        ("odd (further rows, not listed)", "3 rows in all, of which 2 are listed"),
        ("even", "line 2"),
        ("even", "line 4"),
    ]
