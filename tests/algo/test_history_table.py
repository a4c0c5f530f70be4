"""The table: a dict of numbers is the model, a state comes back, one that does not fit is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pgrpo_cli.algo.history_table import FLAG, REAL, WHOLE, HistoryTable, numbered

COLUMNS = {"count": (WHOLE, ()), "sum": (REAL, ()), "ring": (WHOLE, (3,)), "values": (REAL, (3,))}

wholes = st.integers(0, 50) | st.sampled_from([2**15, 2**31 - 1, 2**31, 2**53, 2**62])
# Surrogates too: JSON may escape half of a pair, and Python keeps it. Few letters, so that keys repeat.
names = st.text("ab", max_size=3) | st.text(st.characters(exclude_categories=()), max_size=4)
batches = st.dictionaries(
    names, st.tuples(wholes, st.floats(allow_nan=False, allow_infinity=False)), min_size=1
)


@settings(deadline=None, max_examples=80)
@given(writes=st.lists(batches), asked=st.lists(names))
def test_a_table_is_a_dict_of_numbers_and_comes_back_from_its_state(writes, asked):
    table, model = HistoryTable(COLUMNS), {}
    for batch in writes:
        rows = table.ensure_rows(list(batch))
        counts, sums = (list(column) for column in zip(*batch.values(), strict=True))
        table.write("count", rows, torch.tensor(counts))
        table.write("sum", rows, torch.tensor(sums, dtype=torch.float64))
        table.write("ring", rows * 3 + 1, torch.tensor(counts))
        model.update(batch)
    restored = HistoryTable(COLUMNS)
    restored.load_state_dict(table.state_dict())
    order = {key: row for row, key in enumerate(model)}
    for each in (table, restored):
        assert each.keys == list(model)
        assert each.rows(asked).tolist() == [order.get(key, -1) for key in asked]
        rows = each.ensure_rows(model)
        assert rows.tolist() == list(order.values())
        assert each.read("count", rows).tolist() == [count for count, _ in model.values()]
        assert each.read("sum", rows).tolist() == [value for _, value in model.values()]
        assert each.read("ring", rows * 3 + 1).tolist() == [count for count, _ in model.values()]
        for zero in (each.read("ring", rows * 3), each.read("ring", rows * 3 + 2), each.read("values", rows)):
            assert not zero.any()


def test_rows_added_one_by_one_are_zero_and_keep_their_numbers():
    table = HistoryTable(COLUMNS)
    for i in range(500):
        (row,) = table.ensure_rows([f"key {i}"]).tolist()
        assert row == i
        assert table.read("sum", torch.tensor([row])).item() == 0
        table.write("sum", torch.tensor([row]), torch.tensor([float(i)], dtype=torch.float64))
    assert table.read("sum", table.all_rows()).tolist() == list(map(float, range(500)))


def test_whole_numbers_take_32_bits_until_one_needs_64():
    table = HistoryTable({"count": (WHOLE, ()), "ring": (FLAG, (16,))})
    rows = table.ensure_rows([f"key {i}" for i in range(1000)])
    table.write("count", rows, torch.full((1000,), 2**31 - 1))
    # An eighth more rows than needed, and 8: 1133 of 4 and of 16 bytes.
    assert {name: data.nbytes for name, data in table._data.items()} == {"count": 4532, "ring": 18128}
    table.write("count", rows[:1], torch.tensor([2**31]))
    assert table.read("count", rows[:2]).tolist() == [2**31, 2**31 - 1]
    restored = HistoryTable(table.columns)
    restored.load_state_dict(table.state_dict())
    assert restored.read("count", rows[:2]).tolist() == [2**31, 2**31 - 1]
    assert restored.read("count", rows).dtype == table.state_dict()["count"].dtype == torch.int64


def test_what_is_no_string_is_refused_and_nothing_is_added():
    table = HistoryTable(COLUMNS)
    for key in (None, 3, b"a"):
        with pytest.raises(TypeError, match="a preference group is a string, not "):
            table.ensure_rows(["a", key])
    assert table.keys == []


def filled() -> HistoryTable:
    table = HistoryTable(COLUMNS)
    rows = table.ensure_rows(["é", "ab"])
    table.write("sum", rows, torch.tensor([0.1, -0.0], dtype=torch.float64))
    return table


def test_a_state_shares_nothing_with_the_table():
    table = filled()
    state = table.state_dict()
    restored = HistoryTable(COLUMNS)
    restored.load_state_dict(state)
    for tensor in state.values():
        tensor.fill_(7)
    for each in (table, restored):
        assert each.keys == ["é", "ab"]
        # The sign of zero too.
        assert str(each.read("sum", each.all_rows()).tolist()) == "[0.1, -0.0]"


def bytes_(text: str) -> torch.Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def lengths(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


IDS, LENGTHS = "preference_group_ids", "preference_group_id_lengths"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sum": torch.zeros(2)}, "'sum' holds torch.float32"),
        ({"count": torch.zeros(2, dtype=torch.float64)}, "'count' holds torch.float64"),
        ({"count": torch.zeros(2, dtype=torch.bool)}, "'count' holds torch.bool"),
        ({"sum": torch.zeros(3, dtype=torch.float64)}, r"'sum' has shape \(3,\) for 2 rows"),
        ({"ring": torch.zeros(6, dtype=torch.int16)}, r"'ring' has shape \(6,\) for 2 rows"),
        ({"sum": torch.tensor([0, torch.inf], dtype=torch.float64)}, "'sum' holds NaN or infinity"),
        ({"count": torch.tensor([1, -1])}, "'count' holds a number below 0"),
        ({LENGTHS: lengths(2, 1)}, "4 bytes, and their lengths add up to 3"),
        ({LENGTHS: lengths(2, 4, -2)}, "have 4 bytes"),
        ({IDS: bytes_("abab")}, "1 ids occur twice"),
        ({LENGTHS: lengths(1, 3)}, "can't decode"),
        ({IDS: bytes_("abcd").long()}, "not bytes"),
        ({IDS: bytes_("abcd").view(2, 2)}, "not bytes"),
        ({LENGTHS: torch.tensor([2, 2])}, "not bytes"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(changes, message):
    good = filled().state_dict()
    other = HistoryTable(COLUMNS)
    other.ensure_rows(["c"])
    with pytest.raises(ValueError, match=message):
        other.load_state_dict({**good, **changes})
    assert other.keys == ["c"]
    other.load_state_dict(good)
    assert other.keys == ["é", "ab"]


@given(keys=st.lists(names))
def test_numbered_elements_are_those_they_were_made_from(keys):
    distinct, positions = numbered(keys)
    assert distinct == list(dict.fromkeys(keys))
    assert [distinct[i] for i in positions.tolist()] == keys
    assert positions.dtype == torch.int64
