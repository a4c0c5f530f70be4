import gzip
import hashlib
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.data.sources.context import ReadContext
from pgrpo_cli.data.sources.generic import read_jsonl
from pgrpo_cli.errors import DataError
from pgrpo_cli.recipe.sources import JsonlSource

GOOD = b'{"prompt": "Hi", "preference_group": "a"}'


def row(prompt, group="a", **columns):
    return json.dumps({"prompt": prompt, "preference_group": group, **columns}).encode()


def read(folder, *lines, name="rows.jsonl", **section):
    (folder / name).write_bytes(b"\n".join(lines))
    return read_jsonl(JsonlSource(**({"path": name} | section)), ReadContext(folder))


def prompts(records):
    return [record.messages[-1]["content"] for record in records]


def rejected(data):
    return [(row.where, row.reason) for row in data.rejected]


def test_rows_are_read_in_order_with_their_lines(tmp_path):
    data = read(tmp_path, row("one"), b"", row("two", "b", answer=3), b"")
    assert prompts(data.train) == ["one", "two"]
    assert [(record.file, record.line) for record in data.train] == [("rows.jsonl", 1), ("rows.jsonl", 3)]
    assert data.train[1].columns == {"answer": 3}
    assert (data.eval, data.rejected) == (None, ())


def test_a_broken_line_is_named_and_loses_no_other(tmp_path):
    data = read(tmp_path, row("one"), b'{"prompt": "tw', row("three"), b'{"prompt": ""}', b"\xff", row("six"))
    assert prompts(data.train) == ["one", "three", "six"]
    assert rejected(data) == [
        ("rows.jsonl:2", "not JSON"),
        ("rows.jsonl:4", "no preference group"),
        ("rows.jsonl:5", "not UTF-8"),
    ]
    assert data.rejected[0].row == '{"prompt": "tw'
    assert data.rejected[2].row == "\\xff"


def test_a_rejected_row_names_its_preference_group_where_it_has_one(tmp_path):
    data = read(tmp_path, GOOD, b'{"preference_group": " b "}', b'{"preference_group": 7}', b"{")
    assert [row.preference_group for row in data.rejected] == ["b", "7", None]


def test_only_the_beginning_of_a_long_rejected_row_is_kept(tmp_path):
    data = read(tmp_path, GOOD, b'"' + b"x" * 10_000_000 + b'"')
    assert len(data.rejected[0].row) == 500


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_byte_order_marks_and_dos_line_ends_change_nothing(tmp_path, bom, end):
    (tmp_path / "rows.jsonl").write_bytes(bom + end.join([row("one"), row("naïve")]) + end)
    data = read_jsonl(JsonlSource(path="rows.jsonl"), ReadContext(tmp_path))
    assert prompts(data.train) == ["one", "naïve"]
    assert data.rejected == ()


def test_gzip_files_are_read_and_hashed_as_they_are(tmp_path):
    content = gzip.compress(row("one") + b"\n" + row("two"))
    (tmp_path / "rows.jsonl.gz").write_bytes(content)
    data = read_jsonl(JsonlSource(path="rows.jsonl.gz"), ReadContext(tmp_path))
    assert prompts(data.train) == ["one", "two"]
    assert data.files[0].sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-9], lambda content: b"no gzip", lambda content: content[:20]]
)
def test_a_damaged_gzip_file_is_named(tmp_path, damage):
    (tmp_path / "rows.jsonl.gz").write_bytes(damage(gzip.compress(row("one") * 100)))
    with pytest.raises(DataError, match=r"rows\.jsonl\.gz cannot be read"):
        read_jsonl(JsonlSource(path="rows.jsonl.gz"), ReadContext(tmp_path))


def test_a_pattern_reads_all_files_sorted_by_name(tmp_path):
    for name in ("sub/c.jsonl", "b.jsonl", "a.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(row(name))
    data = read_jsonl(JsonlSource(path="**/*.jsonl"), ReadContext(tmp_path))
    assert prompts(data.train) == ["a.jsonl", "b.jsonl", "sub/c.jsonl"]
    assert [file.name for file in data.files] == ["a.jsonl", "b.jsonl", "sub/c.jsonl"]


def test_a_file_whose_name_looks_like_a_pattern_is_found(tmp_path):
    assert prompts(read(tmp_path, row("one"), name="rows[1].jsonl").train) == ["one"]


@pytest.mark.parametrize("pattern", ["gone.jsonl", "*.txt", "."])
def test_no_file_is_an_error_that_names_the_setting(tmp_path, pattern):
    with pytest.raises(DataError, match=r"no file matches data\.source\.path"):
        read(tmp_path, GOOD, path=pattern)


def test_the_wrong_column_name_is_answered_with_the_nearest(tmp_path):
    lines = [b'{"prompt": "Hi", "preference_grp": "a", "x": 1}'] * 3
    with pytest.raises(DataError) as caught:
        read(tmp_path, *lines)
    message = str(caught.value)
    assert "has the column 'preference_group'; columns found: 'prompt', 'preference_grp', 'x'" in message
    assert "Set data.source.preference_group_column to the right one, perhaps 'preference_grp'." in message


def test_no_prompt_column_at_all_is_an_error(tmp_path):
    with pytest.raises(
        DataError, match=r"the column 'prompt' or 'messages'; columns found: 'text', 'preference_group'"
    ):
        read(tmp_path, b'{"text": "Hi", "preference_group": "a"}')


def test_one_row_with_the_column_is_enough(tmp_path):
    data = read(tmp_path, b'{"prompt": "Hi"}', GOOD)
    assert len(data.train) == 1
    assert rejected(data) == [("rows.jsonl:1", "no preference group")]


def test_held_out_files_are_read_too_and_their_texts_leave_training(tmp_path):
    (tmp_path / "held.jsonl").write_bytes(row("TWO ", "b") + b"\n{")
    data = read(tmp_path, row("one"), row("two"), eval_path="held.jsonl")
    assert prompts(data.train) == ["one"]
    assert prompts(data.eval) == ["TWO "]
    assert rejected(data) == [
        ("held.jsonl:2", "not JSON"),
        ("rows.jsonl:2", "text is held out for evaluation too"),
    ]
    assert [file.name for file in data.files] == ["rows.jsonl", "held.jsonl"]


def test_a_missing_held_out_file_names_its_setting(tmp_path):
    with pytest.raises(DataError, match=r"data\.source\.eval_path"):
        read(tmp_path, GOOD, eval_path="gone.jsonl")


@given(st.lists(st.binary(max_size=60) | st.sampled_from([GOOD, b"{}", b"", b"   "]), max_size=12))
def test_every_line_is_a_row_or_a_rejected_row(lines):
    # What a file begins with may show that it is of another format.
    lines = [GOOD, *(line.replace(b"\n", b"") for line in lines)]
    with tempfile.TemporaryDirectory() as folder:
        data = read(Path(folder), *lines)
    blank = sum(not line.strip() for line in lines)
    assert len(data.train) + len(data.rejected) == len(lines) - blank
    assert len(data.train) >= lines.count(GOOD)
    for row_ in data.rejected:
        assert row_.reason
        assert 1 <= row_.line <= len(lines)
