from dataclasses import replace
from pathlib import Path

import pytest

from pgrpo_cli.data.preference_groups import ASSIGNERS, AssignContext, assign
from pgrpo_cli.errors import DataError, RecipeError
from pgrpo_cli.recipe.data import ExpressionGroups
from tests.support.recipes import changed, problems_of
from tests.support.records import source_record


def assigned(expression, *records):
    section = ExpressionGroups(expression=expression)
    fitted = ASSIGNERS["expression"](section, AssignContext(Path("."))).fit(records)
    return assign(records, fitted.group_of)


def group(expression, user_id="u7", time=5.0, **columns):
    (record,), _ = assigned(expression, source_record("Hi", user_id, "named", time, **columns))
    return record.preference_group


def problem(expression, **columns):
    _, (row,) = assigned(expression, source_record("Hi", "u7", "named", 5.0, **columns))
    return f"{row.reason}: {row.detail}"


@pytest.mark.parametrize(
    ("expression", "name"),
    [
        ("'young' if age < 30 else 'old'", "young"),
        ("country ~ ', ' ~ language | upper", "at, DE"),
        ("columns['favourite genre']", "jazz"),
        ("profile.age // 10 * 10", "40"),
        ("user_id", "u7"),
        ("'late' if time > 4 else 'early'", "late"),
        ("preference_group", "named"),
        ("missing | default('none')", "none"),
        ("country.upper()", "AT"),
        ("(score | float + 0.5) | int", "3"),
        ("'a' if language in ['de', 'en'] else 'b'", "a"),
        ("'}}'", "}}"),
        ("2 * 4 % 5", "3"),
        ("genres|sort|first", "drama"),
        ("language.find('e')", "1"),
        ("result", "won"),
    ],
)
def test_an_expression_names_the_group(expression, name):
    columns = {"country": "at", "language": "de", "profile": {"age": 41}, "score": "2.6", "missing": None}
    columns |= {"genres": ["noir", "drama"], "result": "won"}
    if "missing" in expression:
        del columns["missing"]
        other = source_record("other", missing="x")
        grouped, _ = assigned(expression, source_record("Hi", **columns), other)
        assert [record.preference_group for record in grouped] == ["none", "x"]
    else:
        assert group(expression, age=29, **{"favourite genre": "jazz"}, **columns) == name


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("age + 1", "the expression fails: TypeError: can only concatenate str"),
        ("age > 'b'", "preference group is no text: the expression's result is False"),
        ("1.5", "preference group is no text: the expression's result is 1.5"),
        ("none", "is null"),
        ("''", "no preference group"),
        ("age ~ '\\n2'", "preference group is no name"),
        ("1 // 0", "ZeroDivisionError"),
        ("10 ** 4000", "preference group is no text: the expression's result is 1000"),
        ("10 ** (age|length + 5000)", "ValueError: Exceeds the limit"),
        ("range(3)", "its value is a range"),
        ("columns.gone", "'dict object' has no attribute 'gone'"),
    ],
)
def test_what_fails_costs_its_row(expression, words):
    assert words in problem(expression, age="a")


@pytest.mark.parametrize(
    ("expression", "name"),
    [
        ("'long' if prompt|length > 1 else 'short'", "long"),
        ("answer|length", "4"),
        ("segment ~ '!'", "a!"),
        ("columns['segment']", "a"),
        ("preference_group|default('other')", "other"),
    ],
)
def test_the_columns_that_are_no_further_ones_are_known_too(expression, name):
    row = {"prompt": "Hi", "answer": "Tea.", "segment": "a", "preference_group": None}
    (record,), _ = assigned(expression, replace(source_record("Hi"), row=row))
    assert record.preference_group == name


def test_a_column_of_some_rows_only_costs_the_others():
    grouped, rejected = assigned("genre", source_record("1", genre="jazz"), source_record("2"))
    assert [record.preference_group for record in grouped] == ["jazz"]
    assert rejected[0].detail == "'genre' is undefined"


def test_a_column_that_no_row_has_is_answered_with_the_nearest():
    with pytest.raises(DataError, match=r"expression names the column 'gener'.*the nearest is 'genre'"):
        assigned("gener", source_record("1", genre="jazz"))


@pytest.mark.parametrize("expression", ["a b", "'a", "{{ a }}", "a }} b", "(" * 300 + "1" + ")" * 300])
def test_what_is_no_expression_is_refused_with_the_recipe(tmp_path, expression):
    source = {"type": "jsonl", "path": "prompts.jsonl"}
    groups = {"type": "expression", "expression": expression}
    data = changed(
        data={"source": source, "preference_groups": groups}, rewards=[{"type": "length", "max": 9}]
    )
    (found,) = problems_of(tmp_path, data)
    assert found.path == ("data", "preference_groups", "expression")
    assert "not an expression that can be used" in found.text


@pytest.mark.parametrize(
    ("expression", "said"),
    [("a ~ )", r"unexpected '\)' in line 1"), ("age | uper", "No filter named 'uper'")],
)
def test_what_is_no_expression_is_refused_where_no_recipe_was_checked(expression, said):
    with pytest.raises(ValueError, match=f"not an expression that can be used: {said}"):
        ExpressionGroups(expression=expression)


ESCAPES = [
    "''.__class__",
    "''.__class__.__mro__[1].__subclasses__()",
    "columns.__init__.__globals__",
    "columns.pop('age')",
    "columns.update({'age': 1})",
    "'{0.__class__}'.format(1)",
    "cycler",
    "range(3)",
    "lipsum()",
    "self",
    "age | attr('__class__')",
]


@pytest.mark.parametrize("expression", ESCAPES)
def test_nothing_leads_out_of_the_sandbox(expression):
    try:
        found = problem(expression, age="a")
    except (RecipeError, DataError):
        return
    assert found.startswith(("the expression fails", "preference group is no text"))


def test_a_row_that_takes_too_much_ends_it():
    with pytest.raises(RecipeError, match=r"groups.expression: stopped for needing more than 512 MiB"):
        assigned("'a' * n", source_record("1", n=3), source_record("2", n=10**9))
