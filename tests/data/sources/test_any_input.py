"""Whatever lies in a file: rows, rejected rows, or one error with a message. Never anything else."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.data.records import SourceData
from pgrpo_cli.data.sources import SOURCES
from pgrpo_cli.data.sources.context import ReadContext
from pgrpo_cli.errors import PgrpoError
from pgrpo_cli.recipe.schema import Recipe

SETTINGS: dict[str, dict[str, Any]] = {
    "jsonl": {},
    "csv": {},
    "parquet": {},
    "ultrafeedback": {},
    "helpsteer2": {"eval_split": None},
    "personalllm": {"eval_split": None},
    "goodreads": {"min_words": 1},
    "feedback": {},
    "open_webui": {},
}
TEXT_TYPES = [kind for kind in SETTINGS if kind not in ("parquet", "helpsteer2", "personalllm")]
OTHERS = {
    "personas": "reads no file",
    "datasets": "reads what the datasets library wrote: test_hub.py",
    "prism": "reads several files: presets/test_prism.py",
    "movielens": "reads a folder of files: movielens/",
}
"""Sources that do not read one file with one row on a line, and why this module leaves them out."""


def test_every_source_is_given_any_input_or_says_why_not() -> None:
    assert {*SETTINGS, *OTHERS} == set(SOURCES)


def section_of(kind: str, **settings: Any) -> Any:
    source = {"type": kind, **SETTINGS[kind], **settings}
    made = {"name": "t", "model": {"id": "random"}, "data": {"source": source}}
    return Recipe.model_validate({**made, "rewards": [{"type": "length", "max": 5}]}).data.source


def read(content: bytes, kind: str, suffix: str | None = None, **settings: Any) -> SourceData | None:
    """What is read, checked; None where it is one error, checked too."""
    name = f"rows{suffix or '.jsonl'}"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(content)
        try:
            data = SOURCES[kind](section_of(kind, path=name, **settings), ReadContext(Path(folder)))
        except PgrpoError as error:
            assert error.message
            assert error.remedy
            assert error.exit_code == 2
            return None
    for record in (*data.train, *(data.eval or ())):
        json.dumps(record.columns, allow_nan=False).encode()
        assert record.preference_group is None or record.preference_group.isprintable()
        for message in record.messages:
            message["content"].encode()
    for row in data.rejected:
        assert row.reason
        assert row.file == name
        json.dumps(vars(row))
    assert all(isinstance(note, str) for note in data.notes)
    return data


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63, -(10**40), 10**299])
    | st.floats()
    | st.text(max_size=8)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(
    (
        *(
            "prompt",
            "messages",
            "conversations",
            "preference_group",
            "instruction",
            "completions",
            "response",
        ),
        *("response_1", "response_1_gemma_2b", "user_id", "book_id", "review_id", "rating", "review_text"),
    )
)
messages = st.lists(
    st.dictionaries(st.sampled_from(["role", "content", "from", "value", "tool_calls"]), values, max_size=4)
    | st.fixed_dictionaries({"role": st.just("user"), "content": values})
    | st.fixed_dictionaries({"from": st.sampled_from(["human", "gpt", "x"]), "value": values}),
    max_size=3,
)
rows = st.dictionaries(names, values | messages, max_size=6) | values
odd = st.sampled_from(
    (
        *("", " ", "[", "]", "{", "}", ",", "[]", "[[1]]", '{"a": NaN}', '{"a": 1, "a": 2}', '"\\ud800"'),
        *("1" * 400, "[" * 200, "sep=;", "prompt,preference_group", 'a,"b', '{"prompt": "x"'),
        *("\0", "\r", "\u2028", "\ufeff"),
    )
)
documents = st.one_of(
    st.lists(rows.map(json.dumps) | odd, max_size=6).map("\n".join),
    st.lists(rows, max_size=4).map(lambda found: json.dumps(found, indent=1)),
    st.lists(rows, max_size=3).map(lambda found: json.dumps({"data": found})),
    st.lists(st.lists(odd | st.text(max_size=6), max_size=4).map(";".join), max_size=6).map("\n".join),
)
encodings = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252", "utf-7"])
encoded = st.builds(lambda text, name: text.encode(name, errors="replace"), documents, encodings)


@pytest.mark.parametrize("kind", TEXT_TYPES)
@given(content=st.binary(max_size=80) | encoded)
def test_any_file_of_text_is_rows_or_an_error(kind: str, content: bytes) -> None:
    read(content, kind)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1", "cp1252"])
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@given(content=st.binary(max_size=40) | encoded)
def test_in_any_encoding_that_the_recipe_says(kind: str, encoding: str, content: bytes) -> None:
    read(content, kind, encoding=encoding)


@given(rows=st.lists(rows, max_size=5), kind=st.sampled_from(list(SETTINGS)))
def test_every_json_value_on_a_line_is_a_record_or_a_rejected_row(rows: list[Any], kind: str) -> None:
    text = "".join(json.dumps(row) + "\n" for row in [{"user_id": "x"}, {"user_id": "y"}, *rows])
    if kind not in ("csv", "parquet"):
        data = read(text.encode(), kind)
        assert data is None or sum(data.rows.values()) == len(rows) + 2


NAMED = {"user_column": "user_id", "time_column": "rating", "reference_column": "response"}
FULL = {"prompt": "Hi", "preference_group": "a", "user_id": "u", "rating": 1, "response": "Ho"}


@given(rows=st.lists(st.dictionaries(st.sampled_from(list(FULL)), values, max_size=2), max_size=4))
def test_any_value_in_a_column_that_the_recipe_names(rows: list[Any]) -> None:
    text = "".join(json.dumps({**FULL, **row}) + "\n" for row in [{}, *rows])
    data = read(text.encode(), "jsonl", **NAMED)
    assert data is not None
    assert len(data.train) + len(data.rejected) == len(rows) + 1
    assert all(record.user_id is None or isinstance(record.user_id, str) for record in data.train)
    assert all(record.time is None or isinstance(record.time, float) for record in data.train)


def table(found: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    try:
        pq.write_table(pa.Table.from_pylist(found), out)
    # What Arrow has no column for cannot be in a file.
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        return b""
    return out.getvalue()


def shaped(name: str) -> st.SearchStrategy[Any]:
    return st.lists(st.fixed_dictionaries({"prompt": values, "preference_group": scalars, name: values}))


@given(found=names.flatmap(shaped), kind=st.sampled_from(["parquet", "ultrafeedback", "personalllm"]))
def test_any_table_is_rows_or_an_error(found: list[dict[str, Any]], kind: str) -> None:
    read(table(found[:5]), kind, ".parquet")


WHOLE = table([{"prompt": f"Hi {n}", "preference_group": "a", "tags": ["x"] * n} for n in range(5)])


@given(place=st.integers(0, len(WHOLE) - 1), byte=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_table_is_rows_or_an_error(place: int, byte: int, cut: bool) -> None:
    damaged = WHOLE[:place] if cut else WHOLE[:place] + bytes([byte]) + WHOLE[place + 1 :]
    read(damaged, "parquet", ".parquet")
