"""The forms of messages that data sets have, through the readers."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pgrpo_cli.data.row_problem import RowProblem
from pgrpo_cli.data.sources.context import ReadContext
from pgrpo_cli.data.sources.generic import read_csv, read_jsonl, read_parquet
from pgrpo_cli.data.sources.messages import PARTS, SHAREGPT, message_of, messages_of
from pgrpo_cli.recipe.sources import CsvSource, JsonlSource, ParquetSource

SHARED = [
    {"from": "system", "value": "Be kind."},
    {"from": "human", "value": "Hi"},
    {"from": "gpt", "value": "Ho"},
    {"from": "human", "value": "And?", "weight": None},
]
PLAIN = (
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Ho"},
    {"role": "user", "content": "And?"},
)


def read(folder, *rows, **section):
    text = "".join(json.dumps({"preference_group": "a", **row}) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(text)
    return read_jsonl(JsonlSource(path="rows.jsonl", **section), ReadContext(folder))


def problem(*messages):
    with pytest.raises(RowProblem) as caught:
        messages_of(messages, {})
    return caught.value


def test_sharegpts_conversations_are_read_without_being_named(tmp_path):
    data = read(tmp_path, {"conversations": SHARED, "id": 7}, {"conversations": list(PLAIN)})
    assert [record.messages for record in data.train] == [PLAIN, PLAIN]
    assert data.train[0].columns == {"id": 7}
    assert data.notes == (SHAREGPT,)


@pytest.mark.parametrize("column", ["messages", "chat"])
def test_sharegpts_form_is_read_in_any_column(tmp_path, column):
    section = {} if column == "messages" else {"messages_column": column}
    data = read(tmp_path, {column: SHARED, "conversations": "kept"}, **section)
    assert data.train[0].messages == PLAIN
    # The recipe says which column it is: conversations is a column as any other.
    assert data.train[0].columns == ({} if column == "messages" else {"conversations": "kept"})


def test_a_column_that_the_recipe_names_is_the_only_one(tmp_path):
    (row,) = read(tmp_path, {"conversations": SHARED}, {"chat": SHARED}, messages_column="chat").rejected
    assert (row.line, row.detail) == (1, "neither 'prompt' nor 'chat' has a value")


def test_an_answer_at_the_end_names_the_setting_that_takes_it(tmp_path):
    data = read(tmp_path, {"conversations": SHARED[:3]})
    assert "data.source.drop_last_assistant" in data.rejected[0].detail
    (record,) = read(tmp_path, {"conversations": SHARED[:3]}, drop_last_assistant=True).train
    assert record.columns == {"reference": "Ho"}


def test_sharegpt_in_a_cell_of_a_csv_and_in_parquet(tmp_path):
    cell = json.dumps(SHARED).replace('"', '""')
    (tmp_path / "rows.csv").write_text(f'conversations,preference_group\n"{cell}",a\n')
    data = read_csv(CsvSource(path="rows.csv"), ReadContext(tmp_path))
    assert (data.train[0].messages, data.notes) == (PLAIN, (SHAREGPT,))
    shared = [{name: message[name] for name in ("from", "value")} for message in SHARED]
    table = pa.table({"conversations": [shared], "preference_group": ["a"]})
    pq.write_table(table, tmp_path / "rows.parquet")
    data = read_parquet(ParquetSource(path="rows.parquet"), ReadContext(tmp_path))
    assert (data.train[0].messages, data.notes) == (PLAIN, (SHAREGPT,))


def test_text_parts_are_joined(tmp_path):
    parts = [{"type": "text", "text": "one"}, {"type": "input_text", "text": "two"}]
    data = read(tmp_path, {"messages": [{"role": "user", "content": parts}]})
    assert data.train[0].messages == ({"role": "user", "content": "one\ntwo"},)
    assert data.notes == (PARTS,)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:,"}},
        {"type": "text"},
        {"type": "text", "text": None},
        {"type": ["text"], "text": "x"},
        {"text": "x"},
        "x",
        None,
    ],
)
def test_parts_that_are_no_text_cost_their_row(part):
    found = problem({"role": "user", "content": [{"type": "text", "text": "x"}, part]})
    assert found.reason == "prompt is no text"
    assert "only text is read" in found.detail


def test_messages_that_call_tools_cost_their_row():
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    assert problem(call).reason == "message calls a tool"
    # Also with a text: what it calls would be lost.
    assert problem({**call, "content": "I look."}).reason == "message calls a tool"
    assert message_of({"role": "assistant", "content": "Ho", "tool_calls": None}, 0)["content"] == "Ho"
    assert message_of({"role": "assistant", "content": "Ho", "tool_calls": []}, 0)["content"] == "Ho"
    assert problem({"role": "assistant", "content": None}).reason == "prompt is no text"


@pytest.mark.parametrize("speaker", ["robot", None, ["human"], 3])
def test_unknown_speakers_cost_their_row(speaker):
    found = problem({"from": speaker, "value": "Hi"})
    assert found.reason == "unknown role"
    assert "human" in found.detail


def test_a_message_with_a_role_is_read_by_its_role():
    both = {"role": "user", "content": "Hi", "from": "gpt", "value": "Ho"}
    assert message_of(both, 0) == {"role": "user", "content": "Hi"}
    assert problem({"from": "human"}).reason == "message is no {role, content}"
