import csv
import gzip
import io
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.data.sources.context import ReadContext
from pgrpo_cli.data.sources.generic import read_csv, read_jsonl
from pgrpo_cli.data.sources.text_lines import MAX_ROW
from pgrpo_cli.errors import DataError, PgrpoError
from pgrpo_cli.recipe.sources import CsvSource, JsonlSource

HEADER = b"prompt,preference_group,stars\n"


def read(folder, content, name="rows.csv", **section):
    (folder / name).write_bytes(content)
    return read_csv(CsvSource(**({"path": name} | section)), ReadContext(folder))


def prompts(data):
    return [record.messages[-1]["content"] for record in data.train]


def rejected(data):
    return [(row.line, row.reason) for row in data.rejected]


def test_the_header_names_the_columns_and_rows_know_their_lines(tmp_path):
    data = read(tmp_path, HEADER + b'one,a,5\n\n"two\nlines, ""quoted""",b,\nthree,a,4\n')
    assert prompts(data) == ["one", 'two\nlines, "quoted"', "three"]
    assert [(record.file, record.line) for record in data.train] == [
        ("rows.csv", 2),
        ("rows.csv", 4),
        ("rows.csv", 6),
    ]
    # Cells are text, an empty one is null.
    assert [record.columns["stars"] for record in data.train] == ["5", None, "4"]
    assert not data.rejected


def test_a_list_of_texts_in_a_cell_is_what_it_is_in_json_lines(tmp_path):
    row = {
        "prompt": '["a"]',
        "preference_group": "g",
        "answer": '["b"]',
        "titles": ["Alien", "Heat"],
        "n": [],
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    section = {"path": "rows.jsonl", "reference_column": "answer"}
    (expected,) = read_jsonl(JsonlSource(**section), ReadContext(tmp_path)).train
    cells = [value if isinstance(value, str) else json.dumps(value) for value in row.values()]
    text = io.StringIO(newline="")
    csv.writer(text).writerows([row, cells])
    (found,) = read(tmp_path, text.getvalue().encode(), reference_column="answer").train
    assert found.columns == expected.columns == {"titles": ["Alien", "Heat"], "n": [], "reference": '["b"]'}
    assert found.messages == expected.messages


@pytest.mark.parametrize("cell", ["[1, 2]", '["a", 1]', "[a]", "[", '"a"', '{"a": "b"}', "['a', 'b']"])
def test_other_cells_are_texts(tmp_path, cell):
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["prompt", "preference_group", "x"], ["one", "a", cell]])
    (found,) = read(tmp_path, text.getvalue().encode()).train
    assert found.columns == {"x": cell}


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("delimiter", [b",", b";", b"\t", b"|"])
def test_line_ends_byte_order_marks_and_delimiters(tmp_path, bom, end, delimiter):
    rows = [b"prompt,preference_group", "naïve,a".encode(), b"two,b"]
    content = bom + end.join(rows).replace(b",", delimiter)
    assert prompts(read(tmp_path, content, delimiter=delimiter.decode())) == ["naïve", "two"]


def test_gzip_and_patterns(tmp_path):
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(HEADER + b"two,b,1\n"))
    data = read(tmp_path, HEADER + b"one,a,1\n", name="a.csv", path="*.csv*")
    assert prompts(data) == ["one", "two"]
    assert [file.name for file in data.files] == ["a.csv", "b.csv.gz"]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16"])
def test_other_encodings(tmp_path, encoding):
    content = "prompt,preference_group\nnaïve,a\n".encode(encoding)
    assert prompts(read(tmp_path, content, encoding=encoding)) == ["naïve"]


def test_the_wrong_encoding_costs_the_rows_that_show_it(tmp_path):
    data = read(tmp_path, HEADER + "one,a,1\nnaïve,a,1\n".encode("latin-1"))
    assert prompts(data) == ["one"]
    assert rejected(data) == [(3, "not UTF-8")]
    assert data.rejected[0].detail.startswith("byte 0xef at character 3; save the file as UTF-8, or set")
    assert data.rejected[0].row == "na\\xefve,a,1\n"


@pytest.mark.parametrize(
    ("content", "section", "words"),
    [
        ("prompt,preference_group\nä,a\n".encode("utf-16"), {"encoding": "utf-8"}, "the header is no row"),
        (HEADER + b"x,a,1\n", {"encoding": "utf-16"}, "is not utf-16"),
        (b"\xef\xbb\xbf" + HEADER, {"encoding": "latin-1"}, "byte order mark of UTF-8"),
        (b"prompt,prompt\n", {}, "names columns twice: 'prompt'"),
        (b",,\n", {}, "names no column"),
        (b'"prompt\n', {}, "the header is no row"),
        (
            HEADER.replace(b",", b";") + b"one;a;1\n",
            {"delimiter": ","},
            "columns found: 'prompt;preference_group;stars'",
        ),
        (b"text,preference_group\none,a\n", {}, "has the column 'prompt' or 'messages'"),
        (b"prompt,preference_group\none,a\n", {"user_column": "user"}, "has the column 'user'"),
    ],
)
def test_files_that_cannot_be_read_at_all(tmp_path, content, section, words):
    with pytest.raises(DataError) as caught:
        read(tmp_path, content, **section)
    assert words in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize("content", [b"", b"\n\n", HEADER, HEADER + b"\n\n"])
def test_a_file_without_rows_is_empty(tmp_path, content):
    data = read(tmp_path, content)
    assert (data.train, data.rejected) == ((), ())


def test_broken_rows_cost_no_others(tmp_path):
    content = HEADER + b'one,a,1\ntwo,b\nthree,c,1,2\nfo\x00ur,a,1\n"five" ,a,1\n,a,1\nseven,,1\neight,a,1\n'
    data = read(tmp_path, content)
    assert prompts(data) == ["one", "eight"]
    assert rejected(data) == [
        (3, "ragged row"),
        (4, "ragged row"),
        (5, "NUL byte"),
        (6, "not CSV"),
        (7, "no prompt"),
        (8, "no preference group"),
    ]
    assert data.rejected[0].row == "two,b\n"
    assert data.rejected[3].detail == "',' expected after '\"'"


def test_a_quote_that_is_never_closed_costs_its_row_only(tmp_path):
    data = read(tmp_path, HEADER + b'one,a,1\n"two,a,1\nthree,a,1\nfour,a,1\n')
    assert prompts(data) == ["one", "three", "four"]
    assert rejected(data) == [(3, "not CSV")]


def test_a_long_cell_is_read(tmp_path):
    data = read(tmp_path, HEADER + b"one,a,1\n" + b"x" * 10_000_000 + b",a,1\n")
    assert list(map(len, prompts(data))) == [3, 10_000_000]


def test_a_line_that_is_too_long_is_another_kind_of_file(tmp_path):
    with pytest.raises(DataError, match=r"^rows\.csv:3: the row has more than 16,777,216 characters"):
        read(tmp_path, HEADER + b"one,a,1\n" + b"y" * (MAX_ROW + 1) + b",a,1\n")


def test_a_quoted_row_of_many_lines_that_is_too_long_costs_its_row_only(tmp_path):
    line = b"y" * (MAX_ROW // 4) + b"\n"
    data = read(tmp_path, HEADER + b'one,a,1\n"' + 5 * line + b"five,a,1\n")
    # The lines after it are read as rows again, of one cell each.
    assert prompts(data) == ["one", "five"]
    assert rejected(data) == [(3, "not CSV"), *((line, "ragged row") for line in range(4, 8))]
    assert "is a quote not closed?" in data.rejected[0].detail


def test_messages_are_json_in_a_cell(tmp_path):
    chat = json.dumps([{"role": "user", "content": "Hi"}]).replace('"', '""')
    data = read(tmp_path, f'messages,preference_group\n"{chat}",a\n[,a\nHi,a\n'.encode())
    assert prompts(data) == ["Hi"]
    assert rejected(data) == [(3, "messages are no list"), (4, "messages are no list")]


def test_columns_without_a_name_are_left_out(tmp_path):
    (record,) = read(tmp_path, b",prompt,preference_group\n0,one,a\n").train
    assert record.columns == {}


def test_held_out_files_and_a_limit(tmp_path):
    (tmp_path / "held.csv").write_bytes(HEADER + b"ONE,a,1\nheld,a,1\nmore,a,1\n")
    data = read(tmp_path, HEADER + b"one,a,1\ntwo,a,1\nthree,a,1\n", eval_path="held.csv", limit=2)
    assert prompts(data) == ["two"]
    assert [record.messages[0]["content"] for record in data.eval] == ["ONE", "held"]
    assert rejected(data) == [(2, "text is held out for evaluation too")]


cells = st.sampled_from(["", "a", '"', '""', "x y", "\x00", "ä", "'", "[1", "9" * 30]) | st.text(max_size=6)
lines = st.lists(cells, max_size=4).map(",".join)
hostile = st.lists(lines, max_size=8).map("\n".join).map(lambda text: text.encode("utf-8", "surrogatepass"))


@given(
    hostile | st.binary(max_size=80), st.sampled_from(["utf-8", "latin-1", "cp1252", "utf-16"]), st.booleans()
)
def test_every_file_is_rows_rejected_rows_or_one_error(content, encoding, header):
    content = (HEADER.decode().encode(encoding) if header else b"") + content
    with tempfile.TemporaryDirectory() as folder:
        try:
            data = read(Path(folder), content, encoding=encoding)
        except PgrpoError as error:
            assert error.message
            assert error.remedy
            return
    for record in data.train:
        assert record.preference_group.isprintable()
        record.messages[0]["content"].encode("utf-8")
    for row in data.rejected:
        assert row.reason
        assert row.line >= 1


@given(st.lists(st.tuples(st.text(min_size=1, max_size=8), st.text(max_size=8)), max_size=6))
def test_what_the_csv_module_writes_is_read_as_it_was(rows):
    import csv

    kept = [
        (prompt, extra)
        for prompt, extra in rows
        if prompt.strip()
        and not any("\0" in text or "\ud800" <= max(text) <= "\udfff" for text in (prompt, extra or "x"))
    ]
    with tempfile.TemporaryDirectory() as folder:
        with open(Path(folder) / "rows.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["prompt", "extra", "preference_group"])
            writer.writerows([prompt, extra, "a"] for prompt, extra in kept)
        data = read_csv(CsvSource(path="rows.csv"), ReadContext(Path(folder)))
    assert not data.rejected
    assert [(record.messages[0]["content"], record.columns["extra"] or "") for record in data.train] == kept
