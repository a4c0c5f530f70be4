"""Templates of a recipe: what they render, what they refuse, and that nothing takes long."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgrpo_cli.recipe.template_filters import FILTERS, MAX_CHARACTERS, MAX_ITEMS, TemplateProblem
from pgrpo_cli.recipe.templates import MAX_TEMPLATE, METHODS, Expression, Template


def render(source, **row):
    return Template(source).render({**row, "row": row})


def refused(source, **row):
    with pytest.raises(TemplateProblem) as caught:
        render(source, **row)
    return str(caught.value)


@pytest.mark.parametrize(
    ("source", "row", "text"),
    [
        ("Hi {{ name }}!", {"name": "Ann"}, "Hi Ann!"),
        ("{{ n }} {{ x }} {{ yes }}", {"n": 3, "x": 0.5, "yes": True}, "3 0.5 True"),
        ("{{ row['a name'] }}{{ d.key }}{{ d['key'] }}", {"a name": 1, "d": {"key": 2}}, "122"),
        (
            "{% for x in xs %}{{ loop.index }}{{ x }}{{ ',' if not loop.last }}{% endfor %}",
            {"xs": "ab"},
            "1a,2b",
        ),
        ("{% for k, v in d.items() %}{{ k ~ '=' ~ v }};{% endfor %}", {"d": {"a": 1, "b": 2}}, "a=1;b=2;"),
        ("{% set y = x + 1 %}{{ y * 2 }} {{ 'a' + 'b' }}", {"x": 1}, "4 ab"),
        ("{{ t.split()[0].upper() }} {{ 'b' in ['a', 'b'] }}", {"t": "a b"}, "A True"),
        ("{{ xs|map(attribute='n')|join('+') }}={{ xs|sum('n') }}", {"xs": [{"n": 1}, {"n": 2}]}, "1+2=3"),
        (
            "{{ x|tojson }} {{ 2.345|round(1) }} {{ t|replace('a', 'b') }}",
            {"x": ["é"], "t": "aa"},
            '["é"] 2.3 bb',
        ),
        ("{{ gone or 'none' }}{{ other|default('!') }}", {"gone": None}, "none!"),
        ("a\n{% if x %}\nb\n{% endif %}\n", {"x": 1}, "a\nb\n"),
        ("{% raw %}{{ x }}{% endraw %}{# said #}", {}, "{{ x }}"),
    ],
)
def test_what_templates_render(source, row, text):
    assert render(source, **row) == text


@pytest.mark.parametrize(
    ("source", "row", "reason"),
    [
        ("{{ gone }}", {}, "'gone' is undefined"),
        ("{{ lipsum }}", {}, "'lipsum' is undefined"),
        ("{{ x.upper()|length }}", {"x": b"a"}, "<built-in method upper of bytes object"),
        ("{{ a ~ gone }}", {"a": 1}, "'gone' is undefined"),
        ("{{ x + gone }}", {"x": 1}, "'gone' is undefined"),
        ("{{ d.gone }}", {"d": {}}, "'dict object' has no attribute 'gone'"),
        ("{{ x }}", {"x": None}, "writes a null"),
        ("{{ x }}", {"x": [1]}, "writes a list; use |join or |tojson"),
        ("{{ 1 / x }}", {"x": 0}, "ZeroDivisionError: division by zero"),
        ("{{ 'a' + x }}", {"x": 1}, "+ is for numbers here, found a str"),
        ("{{ xs|sum }}", {"xs": [[1]]}, "sum is for numbers, found a list"),
    ],
)
def test_why_a_row_cannot_be_rendered(source, row, reason):
    assert refused(source, **row).startswith(reason)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ x", "unexpected end of template"),
        ("a\n{% for x in %}", "in line 2 of the template"),
        ("{% macro a() %}{% endmacro %}", "no Macro"),
        ("{% include 'a' %}", "no Include"),
        ("{% import 'a' as b %}", "no Import"),
        ("{% extends 'a' %}", "no Extends"),
        ("{% for x in xs recursive %}{% endfor %}", "no recursive loops"),
        ("{{ x|attr('y') }}", "no filter 'attr'"),
        ("{{ x|center(9) }}", "no filter 'center'"),
        ("{{ '{}'.format(1) }}", "calls nothing but range"),
        ("{{ lipsum(9) }}", "calls nothing but range"),
        ("{{ [x, x] }}", "hold constants only"),
        ("{{ {'a': x} }}", "hold constants only"),
        ("{{ 9 ** 9 }}", "no Pow"),
        ("{{ " + "-" * 15_000 + "1 }}", "nested too deeply"),
        ("{{ " + "(" * 5_000 + "1" + ")" * 5_000 + " }}", "nested too deeply"),
        ("x" * (MAX_TEMPLATE + 1), "more than 20,000 characters"),
    ],
)
def test_what_is_no_template_of_a_recipe(source, reason):
    with pytest.raises(TemplateProblem) as caught:
        Template(source)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("source", "row"),
    [
        ("{{ x.__class__ }}", {"x": ""}),
        ("{{ x['__class__'] }}", {"x": ""}),
        ("{{ xs|map(attribute='__class__')|join }}", {"xs": [""]}),
        ("{{ xs|map('attr', '__class__')|join }}", {"xs": [""]}),
        ("{{ range.__globals__ }}", {}),
        ("{{ self }}", {}),
        ("{{ x.upper }}", {"x": "a"}),
    ],
)
def test_python_cannot_be_reached(source, row):
    refused(source, **row)


@pytest.mark.parametrize(
    ("source", "row", "reason"),
    [
        ("{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}", {}, "loop passes"),
        (
            "{% for i in xs %}{% for j in xs %}{{ j|upper }}{% endfor %}{% endfor %}",
            {"xs": ["a"] * 200},
            "loop passes",
        ),
        ("{{ range(1000000) }}", {}, "Range too big"),
        ("{{ x * 1000000000 }}", {"x": "a"}, "* is for numbers"),
        ("{{ x % 1 }}", {"x": "%999999999d"}, "% is for numbers"),
        ("{% set x = 'aaaaaaaaaa' %}" + "{% set x = x ~ x %}" * 60 + "{{ x }}", {}, "1,000,000 characters"),
        ("{% set x = 'aaaaaaaaaa' %}" + "{% set x = x + x %}" * 60 + "{{ x }}", {}, "1,000,000 characters"),
        (
            "{% set x = 'aa' %}" + "{% set x = x|replace('a', x) %}" * 60 + "{{ x }}",
            {},
            "1,000,000 characters",
        ),
        ("{% set x = 9 %}" + "{% set x = x * x %}" * 60 + "{{ x }}", {}, "63 bits"),
        ("{{ x }}{{ x }}", {"x": "a" * 600_000}, "1,000,000 characters"),
        ("{{ range(99999)|join(x) }}", {"x": "a" * 1000}, "1,000,000 characters"),
        ("{{ x|tojson }}", {"x": ["a" * 1000] * 1001}, "1,000,000 characters"),
        ("{{ 1.5|round(99999999) }}", {}, "precision"),
    ],
)
def test_work_and_text_are_bounded(source, row, reason):
    assert reason in refused(source, **row)


@pytest.mark.parametrize("work", ["x|upper", "x.upper()", "x.split()", "''.startswith(x)", "d.get(x)"])
def test_calls_are_paid_for_by_the_size_of_what_they_get(work):
    source = "{% for i in range(90) %}{% set y = " + work + " %}{% endfor %}done"
    # 90 passes and 90 calls of 1 + 1,000,000 / 10,000 each: 9,180 of 10,000.
    assert render(source, x="a" * 1_000_000, d={}) == "done"
    assert "loop passes and calls" in refused(source.replace("90", "100"), x="a" * 1_000_000, d={})


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("{{ a }}{% if b is defined %}{{ c.d }}{% endif %}", {"a", "b", "c"}),
        ("{% for a in b %}{{ a }}{{ loop.index }}{% endfor %}{% set c = 1 %}{{ c }}", {"b"}),
        ("{{ range(3)|join }}", set()),
    ],
)
def test_variables_are_what_comes_from_outside(source, names):
    assert Template(source).variables == names


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
        ("9 ** 9", "no Pow in line 1 of the expression"),
        ("x|attr('y')", "no filter 'attr'"),
        ("'{}'.format(x)", "calls nothing but range"),
        ("[x]", "hold constants only"),
        ("(" * 5_000 + "1" + ")" * 5_000, "the expression is nested too deeply"),
        ("x" * (MAX_TEMPLATE + 1), "the expression has more than 20,000 characters"),
    ],
)
def test_what_is_no_expression_of_a_recipe(source, reason):
    with pytest.raises(TemplateProblem) as caught:
        Expression(source)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("source", "values", "reason"),
    [
        ("gone", {}, "'gone' is undefined"),
        ("d.gone", {"d": {}}, "'dict object' has no attribute 'gone'"),
        ("x.__class__", {"x": ""}, "access to attribute '__class__'"),
        ("x * 9", {"x": "a"}, "* is for numbers"),
        ("x * x", {"x": 1 << 40}, "63 bits"),
        ("x ~ x", {"x": "a" * 600_000}, "1,000,000 characters"),
        ("1 // x", {"x": 0}, "ZeroDivisionError"),
        ("range(1000000)", {}, "Range too big"),
        ("x ~ [1]", {"x": "a"}, "writes a list"),
        ("~".join(["x|length"] * 100), {"x": "a" * 1_000_000}, "loop passes and calls"),
    ],
)
def test_an_expression_is_as_bounded_as_a_template(source, values, reason):
    assert reason in refused_value(source, **values)


def refused_value(source, **values):
    with pytest.raises(TemplateProblem) as caught:
        value_of(source, **values)
    return str(caught.value)


def test_an_expression_has_a_budget_of_its_own_each_time():
    expression = Expression("+".join(["x|length"] * 90))
    assert [expression.evaluate({"x": "a" * 1_000_000}) for _ in range(3)] == [90_000_000] * 3


def test_the_documentation_names_what_there_is():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    section = page.partition("## Templates")[2].partition("\n## ")[0]
    assert {*FILTERS, *METHODS[str], *METHODS[dict], "range"} <= set(re.findall(r"`(\w+)`", section))


def test_the_bounds_leave_room():
    assert (
        len(render("{% for i in range(n) %}{{ x }}{% endfor %}", n=MAX_ITEMS, x="a" * 100)) == MAX_CHARACTERS
    )
    template = Template("{% for i in range(n) %}{% endfor %}done")
    # Every rendering has a budget of its own.
    assert [template.render({"n": MAX_ITEMS}) for _ in range(3)] == ["done"] * 3


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
expressions = st.recursive(
    st.sampled_from(
        ["a", "b", "gone", "row", "1", "''", "loop", "a.b", "b[0]", "range(3)", "a.items()", "b|", "("]
    ),
    lambda inner: (
        st.tuples(inner, st.sampled_from(["~", "+", "*", "%", "in", "and", "=="]), inner).map(" ".join)
        | st.tuples(inner, st.sampled_from(sorted(FILTERS))).map("|".join)
    ),
    max_leaves=4,
)
pieces = (
    expressions.map("{{{{ {} }}}}".format)
    | expressions.map("{{% for x in {} %}}{{{{ x }}}}{{% endfor %}}".format)
    | expressions.map("{{% set a = {} %}}".format)
    | st.sampled_from(["{%", "%}", "{{", "}}", "{% endfor %}", "{% if a %}", "{% endif %}", "{#", "text\n"])
)


@settings(max_examples=200)
@given(st.lists(pieces, max_size=4).map("".join), values, values)
def test_every_template_renders_or_says_why_not(source, a, b):
    try:
        text = render(source, a=a, b=b)
    except TemplateProblem as problem:
        assert str(problem).strip()
    else:
        assert len(text) <= MAX_CHARACTERS
        assert json.dumps(text)
