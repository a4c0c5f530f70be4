import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.data.row_problem import RowProblem
from pgrpo_cli.data.sources.json_text import MAX_DEPTH, MAX_DIGITS, parse_line, parse_object, parse_value


def problem(call, *arguments):
    with pytest.raises(RowProblem) as caught:
        call(*arguments)
    return caught.value


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (b"{", "not JSON", "Expecting property name enclosed in double quotes at column 2"),
        (b'{"a": 1} {"b": 2}', "not JSON", "Extra data at column 10"),
        (b"\xff\xfe{\x00}\x00", "not UTF-8", "byte 0xff at column 1"),
        (b'{"a": "\xe9"}', "not UTF-8", "byte 0xe9 at column 8"),
        (b"[1, 2]", "not a JSON object", "found [1, 2]"),
        (b'"text"', "not a JSON object", "found 'text'"),
        (b"null", "not a JSON object", "found None"),
        (b'{"a": "\x00"}', "not JSON", "Invalid control character at at column 8"),
    ],
)
def test_lines_that_are_no_row(line, reason, detail):
    found = problem(parse_line, line)
    assert (found.reason, found.detail) == (reason, detail)


def test_what_is_wrong_with_a_row_of_several_lines_names_its_line():
    assert problem(parse_object, '{\n"a": 1,\n}').detail.endswith("at line 3 of it")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_json_lacks_become_null(number):
    assert parse_object(f'{{"a": {number}}}') == {"a": None}


@pytest.mark.parametrize("number", [2**63, -(2**64), 10**299])
def test_whole_numbers_beyond_64_bits_stay_what_they_are(number):
    assert parse_object(f'{{"a": {number}}}') == {"a": number}
    assert float(number)


@pytest.mark.parametrize("digits", [MAX_DIGITS + 1, 5000, 1_000_000])
def test_a_number_of_many_digits_is_refused(digits):
    found = problem(parse_object, '{"a": ' + "1" * digits + "}")
    assert (found.reason, found.detail) == (
        "number too long", f"it has {digits:,} digits; at most {MAX_DIGITS} are read"
    )  # fmt: skip


def test_a_fraction_of_many_digits_is_a_number():
    assert parse_object('{"a": 0.' + "1" * 1_000_000 + "}") == {"a": pytest.approx(1 / 9)}


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 900, 100_000])
def test_what_is_nested_too_deep_is_refused(opening, closing, depth):
    found = problem(parse_value, opening * depth + "1" + closing * depth)
    assert found.reason == "nested too deep"


def test_what_is_nested_as_deep_as_may_be_is_read():
    value = parse_value("[" * MAX_DEPTH + "1" + "]" * MAX_DEPTH)
    for _ in range(MAX_DEPTH):
        (value,) = value
    assert value == 1
    # Beside each other they are as many as one likes.
    assert len(parse_value("[" + "[]," * 1000 + "[]]")) == 1001


@pytest.mark.parametrize(
    "text", ['{"a": "\\ud800"}', '{"a": ["\\uDFFF"]}', '{"\\ud800": 1}', '{"a": "\\udc00\\ud800"}']
)
def test_half_a_surrogate_pair_is_no_text(text):
    assert problem(parse_object, text).reason == "not Unicode text"


@pytest.mark.parametrize("text", ['"\\ud83c\\udfb7"', '"\\\\ud800"'])
def test_a_whole_pair_and_an_escaped_escape_are_text(text):
    assert parse_value(text) in ("🎷", "\\ud800")


@pytest.mark.parametrize("text", ['{"a": 1, "b": 2, "a": 1}', '{"x": [{"a": 1, "a": 2}]}'])
def test_a_key_that_stands_there_twice_is_refused(text):
    found = problem(parse_object, text)
    assert (found.reason, found.detail) == ("key twice in an object", "'a' occurs twice")


@given(st.text(max_size=40) | st.text(alphabet='[]{}",:\\ud8019.eE-+nul ', max_size=60))
def test_any_text_is_a_value_or_a_problem(text):
    try:
        value = parse_value(text)
    except RowProblem as found:
        assert found.reason
        return
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "hostile", ["[" * 4_000_000, "[]," * 1_000_000, '{"a":' * 1_000_000, "9" * 16_000_000]
)
def test_hostile_texts_take_a_second_at_most(hostile):
    start = time.process_time()
    problem(parse_value, hostile)
    assert time.process_time() - start < 1
