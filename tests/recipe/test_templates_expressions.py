"""Expressions of a recipe: their values, and why they have none."""

import pytest

from pgrpo_cli.recipe.templates import Expression, TemplateProblem


def value_of(source, **values):
    return Expression(source).evaluate(values)


@pytest.mark.parametrize(
    ("source", "values", "value"),
    [
        ("x + 1", {"x": 2}, 3),
        ("xs|length > 1", {"xs": [1, 2]}, True),
        ("xs", {"xs": [1, 2]}, [1, 2]),
        ("none", {}, None),
        ("_result ~ result", {"_result": "a", "result": "b"}, "ab"),
        ("{'a': 1}[x]", {"x": "a"}, 1),
        ("gone|default('there')", {}, "there"),
    ],
)
def test_an_expression_has_a_value_of_any_type(source, values, value):
    found = value_of(source, **values)
    assert (found, type(found)) == (value, type(value))


def test_variables_of_an_expression():
    assert Expression("_result ~ (a if range(2) else b.c)").variables == {"_result", "a", "b"}


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ x }}", "in line 1 of the expression"),
        ("x\n~ )", "unexpected ')' in line 2 of the expression"),
        ("x y", "'y' follows its end in line 1 of the expression"),
        ("x }} y", "follows its end"),
        ("'", "in line 1 of the expression"),
        ("x|uper", "No filter named 'uper' in line 1 of the expression"),
        ("(" * 5_000 + "1" + ")" * 5_000, "the expression is nested too deeply"),
    ],
)
def test_what_is_no_expression(source, reason):
    with pytest.raises(TemplateProblem) as caught:
        Expression(source)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("source", "values", "reason"),
    [
        ("gone", {}, "'gone' is undefined"),
        ("d.gone", {"d": {}}, "'dict object' has no attribute 'gone'"),
        ("x.__class__", {"x": ""}, "access to attribute '__class__'"),
        ("1 // x", {"x": 0}, "ZeroDivisionError"),
        ("x ~ [1]", {"x": "a"}, "writes a list"),
        ("x.upper", {"x": "a"}, "its value is a builtin_function_or_method"),
        ("x * 10**9", {"x": "a"}, "stopped for needing more than 512 MiB of memory"),
    ],
)
def test_why_an_expression_has_no_value(source, values, reason):
    with pytest.raises(TemplateProblem) as caught:
        value_of(source, **values)
    assert str(caught.value).startswith(reason)
