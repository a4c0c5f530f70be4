from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.data.preference_groups import ASSIGNERS, AssignContext, assign
from pgrpo_cli.data.preference_groups.by_row import interval_names
from pgrpo_cli.errors import DataError
from pgrpo_cli.recipe.data import BinsGroups, ColumnGroups, RandomGroups, UserGroups
from tests.support.records import source_record


def assigned(section, records, seed=0):
    """(names in order, reasons of what is rejected)."""
    assigner = ASSIGNERS[section.type](section, AssignContext(Path("."), seed))
    assert not assigner.after_split
    grouped, rejected = assign(records, assigner.fit(records).group_of)
    return [record.preference_group for record in grouped], [row.reason for row in rejected]


def test_columns_name_groups_and_a_row_without_one_is_rejected():
    records = [source_record("1", preference_group="a"), source_record("2")]
    assert assigned(ColumnGroups(), records) == (["a"], ["no preference group"])


def test_a_source_that_names_no_groups_at_all_says_what_to_set():
    with pytest.raises(DataError, match=r"names a preference group\n.*data\.preference_groups"):
        assigned(ColumnGroups(), [source_record("1")])


def test_bins_hold_their_lower_edge():
    # 18 and 30 are the lower edges of the second and third interval.
    records = [source_record(str(age), age=age) for age in (17.9, 18, 29, 30, -5, 1e9)]
    names, _ = assigned(BinsGroups(column="age", edges=(18, 30)), records)
    assert names == ["age < 18", "18 <= age < 30", "18 <= age < 30", "age >= 30", "age < 18", "age >= 30"]


def test_bins_may_have_names():
    section = BinsGroups(column="age", edges=(18,), names=("young", "old"))
    assert assigned(section, [source_record("1", age=3), source_record("2", age=18)])[0] == ["young", "old"]


def test_bins_may_cut_the_column_of_the_group_or_the_reference():
    records = [replace(source_record(str(stars)), row={"stars": stars}) for stars in (2.0, 5.0)]
    assert assigned(BinsGroups(column="stars", edges=(3,)), records)[0] == ["stars < 3", "stars >= 3"]


@pytest.mark.parametrize("value", ["", "old", None, True, [3], {"a": 1}, float("nan"), "inf", 10**400])
def test_what_is_no_number_costs_its_row(value):
    records = [source_record("1", age=3), source_record("2", age=value)]
    assert assigned(BinsGroups(column="age", edges=(18,)), records) == (["age < 18"], ["no number to bin"])


@pytest.mark.parametrize("value", ["3", " 3.5 ", "-1e3", 3])
def test_text_that_reads_as_a_number_is_one(value):
    assert assigned(BinsGroups(column="age", edges=(18,)), [source_record("1", age=value)])[0] == ["age < 18"]


def test_a_column_that_no_row_has_is_answered_with_the_nearest():
    with pytest.raises(DataError, match=r"the column 'age'.*columns found: 'aeg', 'x'; the nearest is 'aeg'"):
        assigned(BinsGroups(column="age", edges=(1,)), [source_record("1", aeg=3, x=1)])


@given(st.lists(st.integers(-99, 99), min_size=1, max_size=5, unique=True), st.floats(-100, 100))
def test_every_number_is_in_the_interval_that_its_name_tells(edges, value):
    edges = tuple(sorted(edges))
    ((name,), _) = assigned(BinsGroups(column="x", edges=edges), [source_record("1", x=value)])
    assert eval(name, {"x": value})
    assert sum(eval(other, {"x": value}) for other in interval_names("x", edges)) == 1


@pytest.mark.parametrize("edges", [(), (2, 1), (1, 1)])
def test_edges_ascend(edges):
    with pytest.raises(ValueError):
        BinsGroups(column="x", edges=edges)


def test_names_differ():
    with pytest.raises(ValueError, match="differ"):
        BinsGroups(column="x", edges=(1,), names=("a", "a"))


def test_a_user_is_a_group():
    records = [
        source_record("1", "u"),
        source_record("2", " v "),
        source_record("3"),
        source_record("4", "u"),
    ]
    assert assigned(UserGroups(), records) == (["u", "v", "u"], ["no user"])


@pytest.mark.parametrize("user", ["a\nb", "x" * 201, "\ud800", " "])
def test_a_user_id_that_is_no_name_costs_its_row(user):
    names, reasons = assigned(UserGroups(), [source_record("1", "u"), source_record("2", user)])
    assert (names, len(reasons)) == (["u"], 1)


def test_groups_by_user_without_users_say_which_setting_names_them():
    with pytest.raises(DataError, match=r"no row says whose it is\n.*data\.source\.user_column"):
        assigned(UserGroups(), [source_record("1")])


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=20), st.integers(0, 3))
def test_a_user_is_drawn_once_whatever_the_order(users, seed):
    records = [source_record(str(i), user) for i, user in enumerate(users)]
    drawn, _ = assigned(RandomGroups(count=3), records, seed)
    assert len(set(zip(users, drawn, strict=True))) == len(set(users))
    assert assigned(RandomGroups(count=3), records[::-1], seed)[0] == drawn[::-1]


def test_prompts_without_a_user_are_drawn_by_their_text():
    records = [source_record(f"prompt {i % 300}") for i in range(600)]
    drawn, _ = assigned(RandomGroups(count=10), records)
    assert drawn[:300] == drawn[300:]
    sizes = Counter(drawn)
    assert sorted(sizes) == [f"random-{number:02d}" for number in range(1, 11)]
    # 60 each but for chance: a binomial of 300 · 1/10, doubled, has a standard deviation of 2 · 5.2.
    assert all(60 - 42 < size < 60 + 42 for size in sizes.values())


def test_another_seed_draws_others():
    records = [source_record(str(i), str(i)) for i in range(50)]
    assert assigned(RandomGroups(count=3), records, 0) != assigned(RandomGroups(count=3), records, 1)
