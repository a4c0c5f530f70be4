"""Templates of a recipe and chat templates: what they render, and what they refuse."""

import json

import jinja2.filters
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgrpo_cli.recipe.templates import ChatTemplate, Template, TemplateProblem

MAX_CHARACTERS = 1_000_000


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
            {"x": ["é<"], "t": "aa"},
            '["é<"] 2.3 bb',
        ),
        ("{{ gone or 'none' }}{{ other|default('!') }}", {"gone": None}, "none!"),
        ("a\n{% if x %}\nb\n{% endif %}\n", {"x": 1}, "a\nb\n"),
        ("{% raw %}{{ x }}{% endraw %}{# said #}", {}, "{{ x }}"),
        ("{{ 2 ** 10 }} {{ x * 3 }} {{ '%s-%d' % (x, 7) }}", {"x": "a"}, "1024 aaa a-7"),
        ("{{ x|center(5) }}|{{ 'long text'|wordwrap(4) }}", {"x": "a"}, "  a  |long\ntext"),
        ("{% macro twice(x) %}{{ x }}{{ x }}{% endmacro %}{{ twice('ab') }}", {}, "abab"),
        (
            "{% set found = namespace(n=0) %}{% for x in xs %}{% set found.n = found.n + x %}{% endfor %}"
            "{{ found.n }} {{ [xs, [1]]|tojson }} {{ {'a': xs}.a[1] }}",
            {"xs": [1, 2]},
            "3 [[1, 2], [1]] 2",
        ),
        # Half of a surrogate pair, which JSON can hold, comes back as it was.
        ("{{ x }}", {"x": "\ud800"}, "\ud800"),
    ],
)
def test_what_templates_render(source, row, text):
    assert render(source, **row) == text


def test_the_same_variables_give_the_same_draw():
    template = Template("{% for i in range(9) %}{{ range(10)|random }}{% endfor %}")
    draws = [template.render({"n": n}) for n in (1, 2, 1)]
    assert draws[0] == draws[2] != draws[1]


@pytest.mark.parametrize(
    ("source", "row", "reason"),
    [
        ("{{ gone }}", {}, "'gone' is undefined"),
        ("{{ lipsum }}", {}, "'lipsum' is undefined"),
        ("{{ a ~ gone }}", {"a": 1}, "'gone' is undefined"),
        ("{{ x + gone }}", {"x": 1}, "'gone' is undefined"),
        ("{{ d.gone }}", {"d": {}}, "'dict object' has no attribute 'gone'"),
        ("{{ x }}", {"x": None}, "writes a null"),
        ("{{ 'a' ~ x }}", {"x": None}, "writes a null"),
        ("{{ x }}", {"x": [1]}, "writes a list; use |join or |tojson"),
        ("{{ x.upper }}", {"x": "a"}, "writes a builtin_function_or_method"),
        ("{{ 1 / x }}", {"x": 0}, "ZeroDivisionError: division by zero"),
        ("{{ 'a' + x }}", {"x": 1}, "TypeError: "),
        ("{{ x * 1000001 }}", {"x": "a"}, "more than 1,000,000 characters"),
        ("{{ range(1000000) }}", {}, "OverflowError: Range too big"),
        ("{{ x }}", {"x": b"a"}, "its variables are no JSON values"),
    ],
)
def test_why_a_row_cannot_be_rendered(source, row, reason):
    assert refused(source, **row).startswith(reason)


def test_a_reason_is_short():
    assert len(refused("{{ x|int(base=99) }}{{ {}[x] }}", x="a" * 100_000)) <= 500


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ x", "unexpected end of template"),
        ("a\n{% for x in %}", "in line 2 of the template"),
        ("a\n{% include 'a' %}", "there is no other template to take in in line 2 of the template"),
        ("{% import 'a' as b %}", "no other template"),
        ("{% from 'a' import b %}", "no other template"),
        ("{% extends 'a' %}", "no other template"),
        ("\n{{ x|uper }}", "No filter named 'uper' in line 2 of the template"),
        ("{{ " + "-" * 15_000 + "1 }}", "nested too deeply"),
        ("{{ " + "(" * 5_000 + "1" + ")" * 5_000 + " }}", "nested too deeply"),
    ],
)
def test_what_is_no_template(source, reason):
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
        ("{{ cycler.__init__.__globals__.os }}", {}),
        ("{{ '{0.__class__}'.format(x) }}", {"x": ""}),
        ("{{ namespace(__class__=x) }}", {"x": ""}),
        ("{% set n = namespace() %}{% set n.__class__ = x %}{{ n.__class__ }}", {"x": ""}),
        ("{% set y = xs.append(1) %}", {"xs": []}),
        ("{{ self }}", {}),
    ],
)
def test_python_cannot_be_reached(source, row):
    refused(source, **row)


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


CHAT = (
    "{% if tools %}{{ tools }}{% endif %}{% for m in messages %}"
    "{% if m.role == 'stop' %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{% if m.role == 'skip' %}{% continue %}{% endif %}"
    "<|{{ m.role }}|>{% generation %}{{ m.content|tojson(indent=1) }}{% endgeneration %}\n{% endfor %}"
    "{% set n = namespace(x=1) %}{% set n.x = 2 %}{{ n.x }}{{ strftime_now('%Y')|length }}{{ bos_token }}"
)


def test_a_chat_template_is_what_transformers_makes_of_it():
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = [{"role": "user", "content": ["é<"]}, {"role": "skip"}, {"role": "assistant", "content": 1}]
    known = {"add_generation_prompt": False, "bos_token": "<s>"}
    (expected,), _ = render_jinja_template([messages], chat_template=CHAT, **known)
    assert ChatTemplate(CHAT).render({"messages": messages, **known}) == expected
    with pytest.raises(TemplateProblem, match="Roles must alternate"):
        ChatTemplate(CHAT).render({"messages": [{"role": "stop"}]})


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
FILTERS = sorted(jinja2.filters.FILTERS)
expressions = st.recursive(
    st.sampled_from(
        [
            "a",
            "b",
            "gone",
            "row",
            "1",
            "''",
            "loop",
            "a.b",
            "b[0]",
            "range(3)",
            "a.items()",
            "b|",
            "(",
            "[a, b]",
        ]
    ),
    lambda inner: (
        st.tuples(inner, st.sampled_from(["~", "+", "*", "**", "%", "in", "and", "=="]), inner).map(" ".join)
        | st.tuples(inner, st.sampled_from(FILTERS)).map("|".join)
    ),
    max_leaves=4,
)
pieces = (
    expressions.map("{{{{ {} }}}}".format)
    | expressions.map("{{% for x in {} %}}{{{{ x }}}}{{% endfor %}}".format)
    | expressions.map("{{% set a = {} %}}".format)
    | st.sampled_from(["{%", "%}", "{{", "}}", "{% endfor %}", "{% if a %}", "{% endif %}", "{#", "text\n"])
)


@settings(max_examples=300)
@given(st.lists(pieces, max_size=4).map("".join), values, values)
def test_every_template_renders_or_says_why_not(source, a, b):
    try:
        text = render(source, a=a, b=b)
    except TemplateProblem as problem:
        assert str(problem).strip()
    else:
        assert len(text) <= MAX_CHARACTERS
        assert json.dumps(text)
