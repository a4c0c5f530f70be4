from collections import Counter, defaultdict
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.data.records import text_key
from pgrpo_cli.data.split import split_by_text
from tests.support.records import record

records_strategy = st.lists(
    st.builds(record, st.sampled_from([f"text {i}" for i in range(12)]), st.sampled_from("abcd")), max_size=60
)


def texts(records):
    return {text_key(record) for record in records}


@given(records_strategy, st.floats(0.05, 0.95), st.integers(0, 5))
def test_nothing_is_lost_no_text_is_in_both_and_every_group_can_train(records, fraction, seed):
    train, evaluation = split_by_text(records, fraction, seed)
    assert Counter(map(id, train + evaluation)) == Counter(map(id, records))
    assert not texts(train) & texts(evaluation)
    groups = {record.preference_group for record in records}
    assert {record.preference_group for record in train} == groups


@given(
    sizes=st.lists(st.integers(2, 30), min_size=1, max_size=4),
    fraction=st.floats(0.05, 0.9),
    seed=st.integers(0, 5),
)
def test_each_group_gives_its_share_where_groups_share_no_text(sizes, fraction, seed):
    records = [record(f"{g}/{i}", str(g)) for g, size in enumerate(sizes) for i in range(size)]
    _, evaluation = split_by_text(records, fraction, seed)
    held_out = Counter(record.preference_group for record in evaluation)
    for g, size in enumerate(sizes):
        assert held_out[str(g)] == min(max(1, round(fraction * size)), size - 1)


@given(records_strategy, st.integers(0, 3))
def test_the_order_of_rows_does_not_decide(records, seed):
    _, evaluation = split_by_text(records, 0.3, seed)
    _, of_reversed = split_by_text(records[::-1], 0.3, seed)
    assert texts(evaluation) == texts(of_reversed)


def test_the_order_of_rows_is_kept():
    records = [record(str(i)) for i in range(20)]
    train, evaluation = split_by_text(records, 0.5, 0)
    for part in (train, evaluation):
        assert part == sorted(part, key=lambda record: int(record.prompt_id))


def test_another_seed_holds_out_other_texts():
    records = [record(str(i)) for i in range(40)]
    assert texts(split_by_text(records, 0.3, 0)[1]) != texts(split_by_text(records, 0.3, 1)[1])


def test_groups_with_the_same_texts_hold_out_the_same_ones():
    records = [record(f"text {i}", group) for i in range(20) for group in "abc"]
    _, evaluation = split_by_text(records, 0.2, 0)
    held_out = defaultdict(set)
    for held in evaluation:
        held_out[held.preference_group].add(held.messages[0]["content"])
    assert held_out["a"] == held_out["b"] == held_out["c"]
    assert len(held_out["a"]) == 4


def test_a_group_of_one_text_stays_in_training():
    train, evaluation = split_by_text([record("only", "a", "1"), record("only", "a", "2")], 0.5, 0)
    assert (len(train), evaluation) == (2, [])


@pytest.mark.parametrize("other", ["Play  SOMETHING\n", "play something"])
def test_case_and_spacing_make_no_other_text(other):
    assert text_key(record(other)) == text_key(record("Play something"))


def test_the_system_message_makes_no_other_text():
    plain = record("Hi")
    with_system = replace(plain, messages=({"role": "system", "content": "Be kind."}, *plain.messages))
    assert text_key(with_system) == text_key(plain)
    assert text_key(record("Ho")) != text_key(plain)
