"""The table: whole numbers widen and stay exact, rows come as zeros, a state that does not fit is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pgrpo_cli.algo.columns import HistoryTable

COLUMNS = {"count": ("whole", ()), "sum": ("real", ()), "ring": ("whole", (3,)), "values": ("real", (3,))}

# Sizes on both sides of what 2, 4 and 8 bytes hold.
wholes = st.integers(0, 50) | st.sampled_from([2**15 - 1, 2**15, 2**31 - 1, 2**31, 2**53, 2**62])
names = st.sampled_from([f"key {i}" for i in range(12)])


@settings(deadline=None, max_examples=80)
@given(writes=st.lists(st.dictionaries(names, st.tuples(wholes, st.floats(allow_nan=False, width=64)))))
def test_a_table_is_a_dict_of_numbers(writes):
    table, model = HistoryTable(COLUMNS), {}
    for batch in filter(None, writes):
        rows = table.ensure_rows(list(batch))
        counts, sums = (list(column) for column in zip(*batch.values(), strict=True))
        table.write("count", rows, torch.tensor(counts))
        table.write("sum", rows, torch.tensor(sums, dtype=torch.float64))
        table.write("ring", rows * 3 + 1, torch.tensor(counts))
        model.update(batch)
    rows = table.rows(list(model))
    assert table.read("count", rows).tolist() == [count for count, _ in model.values()]
    assert table.read("sum", rows).tolist() == [value for _, value in model.values()]
    assert table.read("ring", rows * 3 + 1).tolist() == [count for count, _ in model.values()]
    for zero in (table.read("ring", rows * 3), table.read("ring", rows * 3 + 2), table.read("values", rows)):
        assert not zero.any()


def test_new_rows_are_zero_where_old_memory_is_used_again():
    for _ in range(20):
        table = HistoryTable(COLUMNS)
        for i in range(200):
            (row,) = table.ensure_rows([f"key {i}"]).tolist()
            places = torch.tensor([row])
            assert table.read("count", places).item() == table.read("sum", places).item() == 0
            table.write("count", places, torch.tensor([-1 & 0x7FFF]))
            table.write("sum", places, torch.tensor([1e300], dtype=torch.float64))


@pytest.mark.parametrize(
    ("largest", "nbytes"), [(0, 2), (2**15 - 1, 2), (2**15, 4), (2**31 - 1, 4), (2**31, 8), (2**62, 8)]
)
@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
def test_a_whole_column_takes_the_bytes_of_its_largest_number(largest, nbytes, dtype):
    table = HistoryTable({"count": ("whole", ())})
    rows = table.ensure_rows(["a", "b"])
    table.write("count", rows, torch.tensor([7, 9]))
    # As float64 2^31 - 1 and the powers of two are exact.
    table.write("count", rows[1:], torch.tensor([largest]).to(dtype))
    assert table.read("count", rows).tolist() == [7, largest]
    assert table.state_dict()["count"].element_size() == nbytes
    # Never back: the state depends on what was written, not on when it was saved.
    table.write("count", rows[1:], torch.tensor([1]))
    restored = HistoryTable({"count": ("whole", ())})
    restored.load_state_dict(table.state_dict())
    assert restored.read("count", rows).tolist() == [7, 1]
    assert restored.state_dict()["count"].element_size() == nbytes


def filled() -> HistoryTable:
    table = HistoryTable(COLUMNS)
    rows = table.ensure_rows(["a", "b"])
    table.write("sum", rows, torch.tensor([0.1, -0.0], dtype=torch.float64))
    return table


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("sum", torch.zeros(2), "'sum' holds torch.float32"),
        ("count", torch.zeros(2, dtype=torch.float64), "'count' holds torch.float64"),
        ("count", torch.zeros(2, dtype=torch.bool), "'count' holds torch.bool"),
        ("sum", torch.zeros(3, dtype=torch.float64), r"'sum' has shape \(3,\) for 2 rows"),
        ("ring", torch.zeros(6, dtype=torch.int16), r"'ring' has shape \(6,\) for 2 rows"),
        ("sum", torch.tensor([0, torch.inf], dtype=torch.float64), "'sum' holds NaN or infinity"),
        ("count", torch.tensor([1, -1]), "'count' holds a number below 0"),
    ],
)
def test_a_column_that_does_not_fit_is_refused_and_changes_nothing(name, value, message):
    table = filled()
    good = table.state_dict()
    other = HistoryTable(COLUMNS)
    other.ensure_rows(["c"])
    with pytest.raises(ValueError, match=message):
        other.load_state_dict({**good, name: value})
    assert other.keys == ["c"]
    other.load_state_dict(good)
    assert other.keys == ["a", "b"]
    # The sign of zero too.
    assert str(other.read("sum", other.all_rows()).tolist()) == "[0.1, -0.0]"
