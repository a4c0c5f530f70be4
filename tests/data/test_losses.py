from dataclasses import replace

import pytest

from pgrpo_cli.data.assemble import Assembled
from pgrpo_cli.data.losses import described, require_few_broken, require_few_lost
from pgrpo_cli.data.preference_groups import Fitted
from pgrpo_cli.data.records import RejectedRow, SourceData
from pgrpo_cli.errors import DataError
from pgrpo_cli.recipe.data import DataSection
from tests.support.records import prompt, source_record


def broken(count, file="f", group=None, reason="odd", **more):
    return [RejectedRow(reason, f"row {n}", file, n, group, **more) for n in range(1, count + 1)]


def check(rejected, *, rows=None, groups=None, later=(), records=(), **section):
    source = SourceData(tuple(records), None, tuple(rejected), rows=rows or {})
    prompts = [
        prompt(f"{group} {n}", group) for group, size in (groups or {"a": 1000}).items() for n in range(size)
    ]
    assembled = Assembled(
        {}, {"train": prompts, "eval": []}, (), (*rejected, *later), Fitted(lambda record: "")
    )
    made = DataSection.model_validate({"source": {"type": "jsonl", "path": "x"}, **section})
    require_few_broken(source, made)
    require_few_lost(source, assembled, made)


def refused(*arguments, **more):
    with pytest.raises(DataError) as caught:
        check(*arguments, **more)
    return caught.value


@pytest.mark.parametrize(
    ("lost", "rows", "share"),
    [
        # 5 % of 100 are 5; of 32 rows one is 3 %.
        (5, 100, 0.05),
        (1, 32, 0.05),
        # Two are always passed over, be it two of two.
        (2, 2, 0.05),
        (50, 100, 0.5),
        (100, 100, 1.0),
        (0, 0, 0.0),
    ],
)
def test_few_broken_rows_are_passed_over(lost, rows, share):
    check(broken(lost), rows={"f": rows}, max_rejected_share=share)


@pytest.mark.parametrize(
    ("lost", "rows", "share"), [(6, 100, 0.05), (3, 30, 0.05), (3, 3, 0.05), (51, 100, 0.5), (1, 1000, 0.0)]
)
def test_many_broken_rows_are_refused(lost, rows, share):
    error = refused(broken(lost), rows={"f": rows}, max_rejected_share=share)
    assert error.message.startswith(f"all files: {lost} of {rows} rows are broken (")
    assert "data.max_rejected_share" in error.message
    assert "data.max_rejected_share" in error.remedy


def test_one_of_many_files_may_lose_four_times_the_share():
    # 5 % of 1020 are 51; 20 % of 20 are 4.
    rows = {"good": 1000, "small": 20}
    check(broken(4, "small"), rows=rows)
    error = refused(broken(5, "small"), rows=rows)
    assert error.message.startswith(
        "small: 5 of 20 rows are broken (25.0%), more than 4 times data.max_rejected_share (0.2); "
        "up to 2 are always passed over\n  5 x odd\n  small:1: odd (row 1)"
    )


def test_one_preference_group_may_lose_four_times_the_share():
    groups = {"a": 1000, "b": 12}
    # 3 of 15 are 20 %, 4 of 16 are 25 %.
    check(broken(3, group="b"), rows={"f": 1015}, groups=groups)
    error = refused(broken(4, group="b"), rows={"f": 1016}, groups=groups)
    assert error.message.startswith(
        "preference group 'b': 4 of 16 rows are broken (25.0%), more than 4 times"
    )


def test_what_rows_name_is_no_preference_group_where_groups_are_made_otherwise():
    check(broken(4, group="b"), rows={"f": 1016}, preference_groups={"type": "user"})


def test_rows_that_are_left_out_are_no_loss():
    lost = broken(900, group="b", left_out=True)
    check(lost, rows={"f": 1000})
    # They count as rows of their preference group: 4 of 904.
    check([*lost, *broken(4, group="b")], rows={"f": 1000})


def test_prompts_that_are_lost_after_reading_count_too():
    records = [replace(source_record(str(n)), file="f") for n in range(100)]
    check((), later=broken(5), records=records)
    error = refused((), later=broken(6), records=records)
    assert error.message.startswith("all files: 6 of 100 rows are broken (6.0%)")


def test_rows_that_one_row_stands_for_are_counted():
    error = refused([*broken(1), RejectedRow("odd", "more", "f", count=9)], rows={"f": 100})
    assert "all files: 10 of 100 rows" in error.message
    assert "\n  10 x odd\n" in error.message


def test_examples_show_each_reason_before_a_second_of_one():
    told = described([*broken(9), *broken(1, "g", reason="even"), *broken(1, "h", reason="prime")])
    assert told.splitlines() == [
        "  9 x odd; 1 x even; 1 x prime",
        "  f:1: odd (row 1)",
        "  g:1: even (row 1)",
        "  h:1: prime (row 1)",
        "  f:2: odd (row 2)",
        "  f:3: odd (row 3)",
    ]
