import datetime
import decimal
import random
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.data.sources.arrow_table import BATCH_ROWS, batch_rows, json_value, parquet_rows
from pgrpo_cli.data.sources.context import ReadContext
from pgrpo_cli.data.sources.generic import read_parquet
from pgrpo_cli.errors import DataError, PgrpoError
from pgrpo_cli.recipe.sources import ParquetSource


def read(folder, table, name="rows.parquet", **section):
    if isinstance(table, bytes):
        (folder / name).write_bytes(table)
    else:
        pq.write_table(table, folder / name)
    return read_parquet(ParquetSource(**({"path": name} | section)), ReadContext(folder))


def rows(count, group="a"):
    return pa.table({"prompt": [f"prompt {i}" for i in range(count)], "preference_group": [group] * count})


def test_rows_are_read_by_batches_in_order_with_their_numbers(tmp_path):
    count = 2 * BATCH_ROWS + 3
    data = read(tmp_path, rows(count))
    assert [record.messages[0]["content"] for record in data.train] == [f"prompt {i}" for i in range(count)]
    assert [record.line for record in data.train] == list(range(1, count + 1))
    assert data.train[-1].file == data.files[0].name == "rows.parquet"


def test_patterns_held_out_files_and_a_limit(tmp_path):
    pq.write_table(rows(3, "b"), tmp_path / "rows-2.parquet")
    pq.write_table(pa.table({"prompt": ["PROMPT 0"], "preference_group": [7]}), tmp_path / "held.parquet")
    data = read(tmp_path, rows(2), "rows-1.parquet", path="rows-*.parquet", eval_path="held.parquet", limit=4)
    # 0 and 1 of the first file, 0 and 1 of the second; the text of 0 is held out.
    assert [(record.preference_group, record.line) for record in data.train] == [("a", 2), ("b", 2)]
    assert [row.reason for row in data.rejected] == ["text is held out for evaluation too"] * 2
    assert [record.preference_group for record in data.eval] == ["7"]


def test_nested_values_become_json_and_what_json_lacks_is_left_out(tmp_path):
    moment = datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    table = pa.table(
        {
            "messages": [[{"role": "user", "content": "Hi"}]],
            "preference_group": pa.array(["a"]).dictionary_encode(),
            "when": [moment],
            "day": [moment.date()],
            "scores": [{"x": [1.5, float("nan")], "y": None}],
            "price": [decimal.Decimal("1.25")],
            "image": [{"bytes": b"\xff", "path": "a.png"}],
            "raw": [b"\xff"],
            "pairs": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
        }
    )
    (record,) = read(tmp_path, table, time_column="when").train
    assert record.columns == {
        "when": "2024-01-02T03:04:05+00:00",
        "day": "2024-01-02",
        "scores": {"x": [1.5, None], "y": None},
        "price": 1.25,
        "pairs": [["k", 1]],
    }
    assert record.time == moment.timestamp()
    assert record.preference_group == "a"


def test_a_value_that_cannot_be_read_costs_its_row_only():
    texts = pa.Array.from_buffers(pa.string(), 3, pa.array(["ab", "cd", "ef"]).buffers())
    broken = pa.py_buffer(b"ab\xff\xfeef")
    texts = pa.Array.from_buffers(pa.string(), 3, [None, texts.buffers()[1], broken])
    found = list(batch_rows(pa.record_batch({"prompt": texts}), "f", 5))
    assert [row.values for row in found] == [{"prompt": "ab"}, {}, {"prompt": "ef"}]
    assert found[1].problem.reason == "value that cannot be read"
    assert [row.line for row in found] == [5, 6, 7]


def test_a_file_is_never_whole_in_memory(tmp_path):
    rng = random.Random(0)
    path = tmp_path / "rows.parquet"
    table = pa.table({"prompt": ["".join(rng.choices("abcdefgh", k=4000)) for _ in range(1000)]})
    with pq.ParquetWriter(path, table.schema) as writer:
        for _ in range(20):
            writer.write_table(table)
    before, most = pa.total_allocated_bytes(), 0
    for row in parquet_rows(path, "rows", []):
        if row.line % BATCH_ROWS == 0:
            most = max(most, pa.total_allocated_bytes() - before)
    assert row.line == 20_000
    # 80 MB of text in row groups of 4 MB; a page and its decoding are held at a time.
    assert 0 < most < path.stat().st_size / 2
    assert path.stat().st_size > 24_000_000


def test_columns_are_needed_as_in_every_table(tmp_path):
    with pytest.raises(DataError, match=r"no row of data\.source\.path 'rows\.parquet' has the column"):
        read(tmp_path, pa.table({"prompt": ["Hi"], "group": ["a"]}))


def test_a_name_that_stands_twice_is_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array(["Hi"]), pa.array(["a"])], names=["prompt", "prompt"])
    with pytest.raises(DataError, match="names columns twice: 'prompt'"):
        read(tmp_path, table)


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"prompt,preference_group\n", b"PAR1" + b"x" * 200 + b"PAR1"]
)
def test_what_is_no_parquet(tmp_path, content):
    with pytest.raises(DataError, match=r"rows\.parquet cannot be read as Parquet"):
        read(tmp_path, content)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.text(max_size=4)
    | st.dates()
    | st.decimals()
    | st.binary(max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)


@given(
    st.lists(
        st.fixed_dictionaries({"prompt": values, "preference_group": values, "x": values}),
        min_size=1,
        max_size=4,
    )
)
def test_every_table_is_rows_rejected_rows_or_one_error(raw):
    try:
        table = pa.Table.from_pylist(raw)
    except (pa.ArrowException, ValueError, TypeError, OverflowError, OSError):
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            data = read(Path(folder), table)
        except pa.ArrowException:
            # No Parquet can be written of it, such as of a struct without fields.
            return
        except PgrpoError as error:
            assert error.remedy
            return
    assert len(data.train) + len(data.rejected) == len(raw)
    assert all(row.reason for row in data.rejected)


@given(st.data())
def test_a_damaged_file_is_rows_or_one_error(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        pq.write_table(rows(20), path)
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        cut = data.draw(st.none() | st.integers(0, len(content)))
        try:
            read(Path(folder), bytes(content[:cut]))
        except PgrpoError as error:
            assert error.remedy


def test_numbers_dates_and_the_rest():
    assert json_value(float("inf")) is None
    assert json_value(datetime.timedelta(minutes=1)) == 60
    assert json_value((1, [datetime.time(1, 2)])) == [1, ["01:02:00"]]
    assert json_value({1: decimal.Decimal("NaN")}) == {"1": None}
