"""YAML to data with origins: what each scalar is, where it stands, and what is refused."""

from __future__ import annotations

import pytest

from pgrpo_cli.recipe.messages import InvalidRecipe
from pgrpo_cli.recipe.yaml_lines import MAX_DEPTH, MAX_NODES, Document, parse


def read(text: str) -> Document:
    return parse(text, "r.yaml", lambda line: f"r.yaml:{line}")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("-2E5", -200000.0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("7", 7),
        ("-0", 0),
        ("1_000", 1000),
        ("0x10", 16),
        ("yes", True),
        ("Off", False),
        ("~", None),
        ("", None),
        # Numbers of YAML 1.1 that nobody means.
        ("1:30", "1:30"),
        ("010", "010"),
        ("2024-01-01", "2024-01-01"),
        ("1e", "1e"),
        ("e3", "e3"),
        ('"1e-3"', "1e-3"),
        ("!!str 3", "3"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    found = read(f"key: {text}").data["key"]
    assert found == value
    assert type(found) is type(value)


def test_every_key_and_entry_has_its_line() -> None:
    document = read("a:\n  b: 1\n  c:\n    - x\n    -\n      d: 2\n")
    lines = {path: origin.where for path, origin in document.origins.items() if path}
    assert lines == {
        ("a",): "r.yaml:1",
        ("a", "b"): "r.yaml:2",
        ("a", "c"): "r.yaml:3",
        ("a", "c", 0): "r.yaml:4",
        ("a", "c", 1): "r.yaml:6",
        ("a", "c", 1, "d"): "r.yaml:6",
    }


def test_a_missing_path_has_the_line_of_what_encloses_it() -> None:
    assert read("x: 1\na:\n  b: 1\n").origin(("a", "missing", 3)).where == "r.yaml:2"


def test_values_are_shown_as_they_were_written() -> None:
    document = read("a: no\nb: '1'\n")
    assert document.found(("a",), False) == "no"
    assert document.found(("b",), "1") == '"1"'


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\na: 2\n", 2, "found twice; it is set on line 1 already"),
        ("a: 1\n1: 2\n", 2, 'found the key "1"; a key must be text'),
        ("a: 1\nno: 2\n", 2, 'found the key "no"; a key must be text'),
        ("a: 1\n? [b]\n: 2\n", 2, "found the key that is a list or mapping"),
        ("a: &x {c: 1}\nb:\n  <<: *x\n", 3, "merge key"),
        ("a: !!python/object:os.system x\n", 1, "is not supported; remove it"),
        ("a: !!set {b}\n", 1, "YAML tag 'set' is not supported"),
        ("a: !!int five\n", 1, "not a value of the YAML tag 'int'"),
        ("a: !!bool maybe\n", 1, "not a value of the YAML tag 'bool'"),
        ("a: " + "9" * 5000, 1, "a number of 5000 characters"),
        ('a: "\\ud800"\n', 1, "half of a surrogate pair"),
    ],
)
def test_problems_are_collected_and_the_rest_is_read(text: str, line: int, words: str) -> None:
    document = read(f"{text}\nlast: 5\n")
    assert document.data["last"] == 5
    assert [problem.where for problem in document.problems] == [f"r.yaml:{line}"]
    assert words in document.problems[0].text


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\n\tb: 2\n", 2, "indent with spaces, not tabs"),
        ("a: b: c\n", 1, "quote text that has a colon"),
        ("a: 1\nb: [1,\n", 2, "expected the node content"),
        ("a: @x\n", 1, "quote text that begins with this character"),
        ("a: 1\n---\nb: 2\n", 2, "remove the line ---"),
        ("a: 1\nb: *gone\n", 2, "undefined alias 'gone'"),
        ("a: 1\nb: \x07\n", 2, "U+0007"),
        ('a: "\\U00110000"\n', 1, "an escape"),
        ("a: &x [*x]\n", 1, "inside the value that it names"),
        ("a: " + "[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2), 1, f"deeper than {MAX_DEPTH} levels"),
        ("a: " + "[" * 3000, 1, f"deeper than {MAX_DEPTH} levels"),
        (
            "a: &x " + "[" * 30 + "]" * 30 + "\nb: " + "[" * 20 + "*x" + "]" * 20,
            1,
            f"deeper than {MAX_DEPTH} levels",
        ),
    ],
)
def test_what_stops_the_reading_names_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        read(text)
    (problem,) = caught.value.problems
    assert problem.where == f"r.yaml:{line}"
    assert words in problem.text


def test_aliases_cannot_grow_without_bounds() -> None:
    # Ten levels that each repeat the one above ten times: 10^10 values in 500 bytes.
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 10)]
    with pytest.raises(InvalidRecipe, match=f"more than {MAX_NODES} values"):
        read("\n".join(lines))


def test_a_quoted_merge_key_is_text() -> None:
    document = read('"<<": 1\n')
    assert (document.data, document.problems) == ({"<<": 1}, [])


def test_an_alias_stands_for_its_value() -> None:
    assert read("a: &x {b: [1]}\nc: *x\n").data == {"a": {"b": [1]}, "c": {"b": [1]}}


def test_a_renamed_key_takes_what_is_below_it_along() -> None:
    document = read("a: 1\nb:\n  c:\n    - x\n    - !odd y\n")
    document.rename((), "b", "d")
    assert document.data == {"a": 1, "d": {"c": ["x", None]}}
    assert document.origin(("d", "c", 0)).where == "r.yaml:4"
    assert document.origin(("b", "c", 0)).where == "r.yaml:1"
    assert document.broken == {("d", "c", 1)}


def test_a_name_that_unicode_spells_in_two_ways_is_one_key() -> None:
    text = "profiles:\n  caf\u00e9: a\n  cafe\u0301: b\n"
    (problem,) = parse(text, "recipe.yaml", "line {}".format).problems
    assert problem.where == "line 3"
    assert problem.text == "found twice; it is set on line 2 already; remove one"


@pytest.mark.parametrize("character", ["\x85", "\u2028", "\u2029"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_are_counted_as_editors_count_them(character: str, end: str) -> None:
    def text(*lines: str) -> str:
        return end.join([f"# a{character}# b", *lines, ""])

    document = parse(text("a: 1", "b: {c: [x]}", "a: 2"), "recipe.yaml", "line {}".format)
    assert document.origin(("b", "c", 0)).where == "line 3"
    (problem,) = document.problems
    assert problem.where == "line 4" and "set on line 2 already" in problem.text
    for broken, where in (("a: [1", "line 2"), ("a: 1\tb: 2", "line 2"), ("a: *b", "line 2")):
        with pytest.raises(InvalidRecipe) as caught:
            parse(text(broken), "recipe.yaml", "line {}".format)
        assert caught.value.problems[0].where == where


def test_what_has_no_lines_names_none() -> None:
    (problem,) = parse("{r: 1, r: 2}", "--set a", lambda line: "--set a").problems
    assert problem.text == "found twice; remove one"
