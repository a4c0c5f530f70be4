import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.data.records import RejectedRow
from pgrpo_cli.data.summary import Bar, count_groups, count_reasons, length_bars
from tests.support.records import prompt, user_record


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


def test_95_percent_of_the_prompts_are_no_longer_than_p95():
    # Of 40 lengths 1 to 40, 38 are at most 38.
    (group,) = count_groups({"train": [prompt(str(n), length=n) for n in range(40, 0, -1)], "eval": []})
    assert group.tokens_p95 == 38


def test_users_are_counted_over_both_halves_where_they_are_known():
    splits = {"train": [prompt("1", "a"), prompt("2", "b")], "eval": [prompt("3", "a")]}
    records = {
        "train": [user_record("1", "u", "a"), user_record("2", None, "b")],
        "eval": [user_record("3", "v", "a"), user_record("4", "u", "a")],
    }
    assert [group.users for group in count_groups(splits, records)] == [2, None]


def test_equal_groups_are_ordered_by_name():
    groups = count_groups({"train": [prompt("1", "b"), prompt("2", "a")], "eval": []})
    assert [group.preference_group for group in groups] == ["a", "b"]


def test_reasons_are_counted_the_most_frequent_first():
    rejected = [RejectedRow(reason, "") for reason in ("z", "b", "a", "b")]
    assert list(count_reasons(rejected).items()) == [("b", 2), ("a", 1), ("z", 1)]


def test_lengths_are_drawn_in_bars_of_a_round_width():
    # 3 to 41 in bars of 5: 0, 5, ..., 40 are nine; in bars of 2 they would be twenty.
    bars = length_bars([3, 4, 7, 41])
    assert (bars[0], bars[1], bars[-1], len(bars)) == (Bar(0, 5, 2), Bar(5, 10, 1), Bar(40, 45, 1), 9)
    assert length_bars([7, 7]) == (Bar(7, 8, 2),)
    assert length_bars([]) == ()


@given(st.lists(st.integers(0, 10**6), min_size=1))
def test_every_length_is_in_one_of_ten_bars(lengths):
    bars = length_bars(lengths)
    assert 1 <= len(bars) <= 10
    assert all(bar.count == sum(bar.low <= length < bar.high for length in lengths) for bar in bars)
    assert sum(bar.count for bar in bars) == len(lengths)
    assert bars[0].count and bars[-1].count
