"""Whole files that are of another format, encoding or delimiter than their names say."""

import bz2
import gzip
import io
import json
import lzma
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pgrpo_cli.data.sources.context import ReadContext
from pgrpo_cli.data.sources.generic import read_csv, read_jsonl, read_parquet
from pgrpo_cli.data.sources.sniff import HEAD
from pgrpo_cli.errors import DataError
from pgrpo_cli.recipe.sources import CsvSource, JsonlSource, ParquetSource

ROWS = [{"prompt": f"naïve {n}, or “not”; {'x' * n}", "preference_group": "ab"[n % 2]} for n in range(500)]
TEXTS = [row["prompt"] for row in ROWS]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
READERS = {
    "jsonl": (read_jsonl, JsonlSource),
    "csv": (read_csv, CsvSource),
    "parquet": (read_parquet, ParquetSource),
}


def read(folder, content, kind="jsonl", name=None, **section):
    name = name or f"rows.{kind}"
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    reader, made = READERS[kind]
    return reader(made(path=name, **section), ReadContext(folder))


def refused(*arguments, **options):
    with pytest.raises(DataError) as caught:
        read(*arguments, **options)
    assert caught.value.remedy
    return str(caught.value)


def texts(data):
    assert not data.rejected
    return [record.messages[-1]["content"] for record in data.train]


def table(rows=ROWS, delimiter=","):
    import csv

    out = io.StringIO()
    writer = csv.DictWriter(out, ["prompt", "preference_group"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def parquet(rows=ROWS):
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


def archive(*names):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        for name in names:
            made.writestr(name, LINES)
    return out.getvalue()


ARRAYS = {
    "in one line": json.dumps(ROWS),
    "a row a line": "[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n",
    "a comma first": "[\n" + "\n,".join(map(json.dumps, ROWS)) + "\n]",
    "indented": json.dumps(ROWS, indent=2, ensure_ascii=False),
    "of one row": json.dumps(ROWS[:1]),
    "spaced out": "\n\n  [ \n" + " , ".join(map(json.dumps, ROWS)) + " ] \n\n",
}


@pytest.mark.parametrize("content", ARRAYS.values(), ids=ARRAYS)
def test_a_json_array_is_read_as_its_items(tmp_path, content):
    data = read(tmp_path, content)
    assert texts(data) == TEXTS[: len(data.train)]
    assert len(data.train) in (1, 500)
    assert data.notes == (
        "rows.jsonl is an array or indented JSON, no JSON lines: each of its objects is a row.",
    )
    assert data.rows == {"rows.jsonl": len(data.train)}


def test_the_items_of_an_array_know_their_lines(tmp_path):
    data = read(tmp_path, json.dumps([ROWS[0], [1], ROWS[1], {"prompt": 3}], indent=1))
    # "[" is line 1; a row of two keys takes 4 lines, the list of one number 3.
    assert [record.line for record in data.train] == [2, 9]
    assert [(row.line, row.reason) for row in data.rejected] == [
        (6, "not a JSON object"),
        (13, "no preference group"),
    ]


def test_indented_objects_one_after_the_other_are_rows(tmp_path):
    data = read(tmp_path, "\n".join(json.dumps(row, indent=4) for row in ROWS))
    assert texts(data) == TEXTS
    assert [record.line for record in data.train][:3] == [1, 5, 9]


def test_an_indented_object_that_is_longer_than_what_is_looked_at(tmp_path):
    long = [{**row, "note": ["x" * 100] * (HEAD // 50)} for row in ROWS[:3]]
    data = read(tmp_path, "\n".join(json.dumps(row, indent=4) for row in long))
    assert texts(data) == TEXTS[:3]


@pytest.mark.parametrize("indent", [None, 2])
def test_an_object_whose_only_key_has_the_list_is_read_as_the_list(tmp_path, indent):
    data = read(tmp_path, json.dumps({"my data": ROWS}, indent=indent))
    assert texts(data) == TEXTS
    assert data.notes[-1] == "rows.jsonl is one object: the rows are the list at 'my data' in it."
    # {, "my data": [, and from the third line on rows of 4 lines each.
    assert [record.line for record in data.train][:2] == ([1, 1] if indent is None else [3, 7])


def test_a_single_row_of_messages_is_a_row_and_no_list_of_rows(tmp_path):
    row = {"messages": [{"role": "user", "content": "Hi"}]}
    data = read_jsonl_ungrouped(tmp_path, row)
    assert texts(data) == ["Hi"]
    assert data.notes == ()


def read_jsonl_ungrouped(folder, row):
    (folder / "rows.jsonl").write_text(json.dumps(row))
    return read_jsonl(JsonlSource(path="rows.jsonl"), ReadContext(folder, groups_from_rows=False))


@pytest.mark.parametrize("place", [0, 7])
def test_a_line_that_is_an_array_among_objects_is_one_rejected_row(tmp_path, place):
    lines = LINES.splitlines()[:32]
    lines.insert(place, json.dumps(ROWS[:2]))
    data = read(tmp_path, "\n".join(lines))
    assert len(data.train) == 32
    assert [(row.line, row.reason) for row in data.rejected] == [(place + 1, "not a JSON object")]
    assert data.notes == ()


@pytest.mark.parametrize(
    "broken", ['{"prompt": "cut', "[", "[1,", '{"prompt": "x",', "}", "prompt,group", "[{"]
)
def test_a_broken_first_line_costs_itself_only(tmp_path, broken):
    data = read(tmp_path, f"{broken}\n{LINES}")
    assert len(data.train) == 500
    assert [(row.line, row.reason) for row in data.rejected] == [(1, "not JSON")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('[\n{"a": 1},\n{"a": }\n]', "rows.jsonl:3: not JSON: Expecting value"),
        ('[\n{"a": 1} 2\n]', "rows.jsonl:2: not JSON: ',' or ']' is needed after an item, found '2'"),
        ('[{"a": 1}', "rows.jsonl:1: not JSON: ',' or ']' is needed after an item, found 'the end'"),
        ('[{"a": 1},\n', "rows.jsonl:2: not JSON: the array is not closed"),
        ("[", "rows.jsonl:1: not JSON: the array is not closed"),
        ('[{"a": 1},\n{"a": 2}]\n]', "rows.jsonl:3: not JSON: the file continues after the array"),
        ("[" * 100_000, "rows.jsonl:1: not JSON: lists and objects are nested too deep"),
    ],
)
def test_a_broken_array_is_an_error_with_its_line(tmp_path, content, words):
    assert words in refused(tmp_path, content)


@pytest.mark.parametrize("sign", ["\u2028", "\x85", "\x1c", "\u3000"])
def test_signs_inside_texts_end_no_line(tmp_path, sign):
    rows = [{"prompt": f"one{sign}two;three", "preference_group": "a"}] * 3
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    raw = lines.replace("\\u001c", sign)
    data = read(tmp_path, f"{sign}\n{raw}" if sign != "\x1c" else lines)
    assert len(data.train) == 3
    # What looks blank and is no space is a line.
    assert [row.line for row in data.rejected] == ([1] if sign != "\x1c" else [])
    assert data.notes == ()
    data = read(tmp_path, table(rows), "csv")
    assert (len(data.train), data.notes) == (3, ())


ENCODINGS = ["utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be"]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_encodings_are_read_by_their_marks(tmp_path, encoding, kind):
    data = read(tmp_path, (LINES if kind == "jsonl" else table()).encode(encoding), kind)
    assert texts(data) == TEXTS
    assert len(data.notes) == (encoding != "utf-8-sig")


def test_a_big_endian_mark_is_known_too(tmp_path):
    data = read(tmp_path, b"\xfe\xff" + LINES.encode("utf-16-be"))
    assert texts(data) == TEXTS
    assert data.notes == ("rows.jsonl is read as UTF-16, as its byte order mark says.",)


def test_an_encoding_that_the_recipe_says_is_used(tmp_path):
    content = table([{"prompt": "naïve", "preference_group": "a"}]).encode("cp1252")
    assert texts(read(tmp_path, content, "csv", encoding="cp1252")) == ["naïve"]
    (row,) = read(tmp_path, content, "csv").rejected
    assert row.reason == "not UTF-8"
    assert "set data.source.encoding to the file's, perhaps 'cp1252'" in row.detail
    content = json.dumps(ROWS[0], ensure_ascii=False).encode("cp1252")
    assert texts(read(tmp_path, content, encoding="cp1252")) == TEXTS[:1]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_row_in_another_encoding_still_names_its_preference_group(tmp_path, kind):
    rows = [{"prompt": "été", "preference_group": "fr"}, {"prompt": "x", "preference_group": "français"}]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    data = read(tmp_path, (lines if kind == "jsonl" else table(rows)).encode("cp1252"), kind)
    assert [row.preference_group for row in data.rejected] == ["fr", "fran�ais"]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_delimiters_are_read_by_what_fits_the_rows(tmp_path, delimiter):
    data = read(tmp_path, table(delimiter=delimiter), "csv")
    assert texts(data) == TEXTS
    assert data.notes == (f"rows.csv is read with {delimiter!r} between cells, as its first rows show.",)


@pytest.mark.parametrize("mark", ["sep=;\n", "sep=;\r\n", "SEP=;\n"])
def test_excels_line_says_the_delimiter_and_is_no_header(tmp_path, mark):
    data = read(tmp_path, mark + table(delimiter=";"), "csv")
    assert texts(data) == TEXTS
    assert data.train[0].line == 3
    assert data.notes == ("rows.csv is read with ';' between cells, as its first line says.",)


def test_a_delimiter_that_the_recipe_says_is_used(tmp_path):
    content = "prompt;x,preference_group\na;b,c\n"
    data = read(tmp_path, content, "csv", prompt_column="prompt;x", delimiter=",")
    assert texts(data) == ["a;b"]
    assert data.notes == ()
    assert texts(read(tmp_path, "sep=;\n" + table(), "csv", delimiter=",")) == TEXTS


def test_texts_full_of_other_delimiters_do_not_mislead(tmp_path):
    rows = [{"prompt": "a;b;c|d\te;", "preference_group": "x;y"}] * 5
    data = read(tmp_path, table(rows), "csv")
    assert (texts(data), data.notes) == (["a;b;c|d\te;"] * 5, ())


def test_one_column_and_no_delimiter_at_all(tmp_path):
    (tmp_path / "rows.csv").write_text("prompt\none\ntwo, too\nthree\n")
    data = read_csv(CsvSource(path="rows.csv"), ReadContext(tmp_path, groups_from_rows=False))
    assert (texts(data), data.notes) == (["one", "two, too", "three"], ())


def test_gzip_is_known_by_its_first_bytes(tmp_path):
    assert texts(read(tmp_path, gzip.compress(LINES.encode()))) == TEXTS


OTHERS = {
    "parquet": (parquet(), "rows.KIND is Parquet", "data.source.type to 'parquet'"),
    "zip": (archive("rows.jsonl"), "is a zip archive", "Unpack it"),
    "xlsx": (archive("[Content_Types].xml", "xl/workbook.xml"), "is an Excel workbook", "as CSV in UTF-8"),
    "xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "is an Excel workbook", "as CSV in UTF-8"),
    "bzip2": (bz2.compress(b"{}"), "is packed with bzip2", "gzip"),
    "xz": (lzma.compress(b"{}"), "is packed with xz", "gzip"),
    "html": (b"\n<!DOCTYPE html><html>", "is an HTML page", "Download the file itself"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS", "git lfs pull"),
}


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("other", OTHERS)
def test_a_file_of_another_format_is_called_by_its_name(tmp_path, kind, other):
    if kind == other:
        return
    content, found, remedy = OTHERS[other]
    told = refused(tmp_path, content, kind)
    assert found.replace("KIND", kind) in told
    assert remedy in told
    # The same, packed.
    assert found.replace("KIND", kind) in refused(tmp_path, gzip.compress(content), kind)


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (table(), "jsonl", "rows.jsonl is CSV, and it is to be read as JSON"),
        (table(delimiter=";"), "jsonl", "rows.jsonl is CSV"),
        (table(), "parquet", "rows.parquet is CSV"),
        (LINES, "csv", "rows.csv is JSON, and it is to be read as CSV"),
        (json.dumps(ROWS, indent=1), "csv", "rows.csv is JSON"),
        (json.dumps(ROWS), "csv", "rows.csv is JSON"),
        (LINES, "parquet", "rows.parquet is JSON"),
        (json.dumps(ROWS), "parquet", "rows.parquet is JSON"),
    ],
)
def test_tables_of_another_type_name_the_setting(tmp_path, content, kind, words):
    told = refused(tmp_path, content[:3000] if kind != "parquet" else content, kind)
    assert words in told
    assert f"Set data.source.type to '{'csv' if 'is CSV' in words else 'jsonl'}'" in told
