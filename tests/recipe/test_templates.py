"""Templates of a recipe: what they render, what they refuse, and that nothing takes much time or memory."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jinja2.filters
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgrpo_cli.recipe import templates
from pgrpo_cli.recipe.templates import ChatTemplate, Expression, Template, TemplateProblem

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


DOUBLED = "{% set x = [1] %}{% set y = [1] %}" + "{% set x = [x, x] %}{% set y = [y, y] %}" * 60
ATTACKS = {
    "text": "{{ 'a' * 10**9 }}",
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "range": "{% for i in range(10**9) %}{% endfor %}",
    "center": "{{ 'a'|center(10**9) }}",
    "folded": "{{ 'a'|center(1000000000) }}",
    "power": "{{ 10**(10**10) }}",
    "power in C": "{{ ('9' * 4000)|int ** 4000 > 1 }}",
    "percent": "{{ '%1000000000s'|format(1) }}",
    "percent operator": "{{ '%1000000000s' % 1 }}",
    "format": "{{ '{:1000000000}'.format(1) }}",
    "doubled text": "{% set x = 'aaaaaaaaaa' %}" + "{% set x = x ~ x %}" * 60 + "{{ x }}",
    "doubled in a loop": "{% set n = namespace(x='a') %}"
    "{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}",
    "doubled list, written": DOUBLED + "{{ x|tojson }}",
    "doubled list, compared": DOUBLED + "{{ x == y }}",
    "list": "{{ ([[]] * 10**8)|length }}",
    "batch": "{{ [1]|batch(10**9, 1)|list|length }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "two branches": "{% macro f(n) %}{{ (f(n - 1) ~ f(n - 1)) if n }}{% endmacro %}{{ f(50) }}",
    "long": "{{ x." + "a." * 50_000 + "b }}",
    "deep": "{{ " + "[" * 100_000 + "1" + "]" * 100_000 + " }}",
}
ATTACKING = """
import json, resource, sys
from pgrpo_cli.recipe import templates
templates.SECONDS = float(sys.argv[1])
attacks = json.load(sys.stdin)
for name, source in attacks.items():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        said = [False, templates.Template(source).render({})]
    except templates.TemplateProblem as problem:
        said = [True, str(problem)]
    templates._worker.close()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    # The largest of all workers so far, and this process by its own maximum: `ru_maxrss` begins with that of
    # whoever started it.
    status = open("/proc/self/status").read()
    own = int(status.partition("VmHWM:")[2].split()[0])
    print(json.dumps([name, *said, seconds, (after.ru_maxrss + own) << 10]))
"""


def attacked(attacks, seconds):
    """Name to (refused, text or reason, processor seconds, bytes) of each attack, in one other process."""
    done = subprocess.run(
        [sys.executable, "-c", ATTACKING, str(seconds)],
        input=json.dumps(attacks).encode(),
        capture_output=True,
        check=True,
        timeout=300,
    )
    return {name: rest for name, *rest in map(json.loads, done.stdout.splitlines())}


@pytest.fixture(scope="module")
def results():
    return attacked(ATTACKS, 0.2)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_costs_little_and_is_told(results, name):
    was_refused, said, seconds, size = results[name]
    assert was_refused
    assert said.strip()
    # 0.2 seconds, and more to start the worker, to compile and to end.
    assert seconds < 1.5
    assert size < 1 << 30


def test_what_is_said_of_too_much_memory(results):
    assert results["batch"][1] == "stopped for needing more than 512 MiB of memory"


@pytest.mark.slow
def test_with_the_time_of_every_day():
    (_, said, seconds, _), *_ = attacked({"loops": ATTACKS["loops"]}, templates.SECONDS).values()
    assert said == "stopped after 3 seconds of processor time; it must not take longer"
    # The kernel counts for its timer by ticks.
    assert 2 < seconds < 5


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(templates, "SECONDS", 0.2)


def test_the_next_template_gets_a_new_worker(impatient):
    template = Template("{% for i in range(n) %}{% for i in range(n) %}{% endfor %}{% endfor %}done")
    with pytest.raises(TemplateProblem) as caught:
        template.render({"n": 99_999})
    assert caught.value.exhausted
    assert template.render({"n": 2}) == "done"
    with pytest.raises(TemplateProblem) as caught:
        template.render({"n": "two"})
    assert not caught.value.exhausted


def test_time_counts_from_one_request_to_the_next(impatient):
    template = Template("{% for i in range(99999) %}{% endfor %}done")
    started = time.process_time()
    assert [template.render({"n": n}) for n in range(200)] == ["done"] * 200
    assert time.process_time() - started < 5


def test_an_interrupted_request_leaves_no_answer_behind():
    template = Template("{% for i in range(n) %}{% for i in range(n) %}{% endfor %}{% endfor %}{{ x }}")

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        # 16 million passes take half a second.
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            template.render({"n": 4000, "x": "first"})
    finally:
        signal.signal(signal.SIGALRM, before)
    assert template.render({"n": 1, "x": "second"}) == "second"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_process_opens_no_files_and_starts_no_processes():
    render("")
    limits = Path(f"/proc/{templates._worker._process.pid}/limits").read_text()
    assert re.search(r"Max open files +0 +0 ", limits)
    assert re.search(r"Max processes +0 +0 ", limits)


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
