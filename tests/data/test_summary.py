import pytest

from pgrpo_cli.data.assemble import Assembled
from pgrpo_cli.data.preference_groups import Fitted
from pgrpo_cli.data.records import RejectedRow
from pgrpo_cli.data.summary import FEW_PROMPTS, count_groups, count_reasons, warnings_about
from tests.support.records import prompt, record


def warnings(train, rejected=(), evaluation=()):
    records = {"train": tuple(train), "eval": tuple(evaluation)}
    prompts = {
        half: [prompt(str(i), r.preference_group) for i, r in enumerate(members)]
        for half, members in records.items()
    }
    assembled = Assembled(records, prompts, (), tuple(rejected), Fitted(lambda record: ""))
    return list(warnings_about(assembled, count_groups(prompts)))


def test_groups_are_counted_the_largest_first():
    small, large = count_groups(
        {
            "train": [prompt("1", "b", 4), prompt("2", "a", 2), prompt("3", "b", 6)],
            "eval": [prompt("4", "b", 11)],
        }
    )[::-1]
    assert (large.preference_group, large.train_prompts, large.eval_prompts) == ("b", 2, 1)
    assert large.share == pytest.approx(2 / 3)
    assert (large.tokens_mean, large.tokens_max) == (7.0, 11)  # (4 + 6 + 11) / 3
    assert (small.preference_group, small.train_prompts, small.eval_prompts) == ("a", 1, 0)


def test_equal_groups_are_ordered_by_name():
    groups = count_groups({"train": [prompt("1", "b"), prompt("2", "a")], "eval": []})
    assert [group.preference_group for group in groups] == ["a", "b"]


def test_reasons_are_counted_the_most_frequent_first():
    rejected = [RejectedRow(reason, "") for reason in ("z", "b", "a", "b")]
    assert list(count_reasons(rejected).items()) == [("b", 2), ("a", 1), ("z", 1)]


def test_enough_different_prompts_with_held_out_ones_are_worth_no_warning():
    assert warnings([record(str(i)) for i in range(FEW_PROMPTS)], evaluation=[record("x")]) == []


def test_a_small_group_is_warned_about():
    (warning,) = warnings([record(str(i)) for i in range(FEW_PROMPTS - 1)], evaluation=[record("x")])
    assert "'a' has only 15 training prompts; under 16" in warning


def test_a_group_without_held_out_prompts_is_warned_about():
    (warning,) = warnings([record(str(i)) for i in range(FEW_PROMPTS)])
    assert "'a' has no held-out prompt" in warning


def test_a_group_whose_rows_are_all_rejected_is_warned_about():
    rows = [record(str(i)) for i in range(FEW_PROMPTS)]
    rejected = [RejectedRow("empty prompt", "", "f", 1, "b"), RejectedRow("empty prompt", "", "f", 2, "a")]
    (warning,) = warnings(rows, rejected, evaluation=[record("x")])
    assert warning == "preference group 'b' is gone: all its rows were rejected"


def test_repeated_texts_are_counted_within_a_preference_group():
    rows = [record(str(i), group) for i in range(FEW_PROMPTS) for group in "ab"]
    rows += [record("3", "a", "again"), record("3", "a", "and again")]
    (warning,) = warnings(rows, evaluation=[record("x"), record("x", "b")])
    assert warning.startswith("2 of the prompts repeat the text")
