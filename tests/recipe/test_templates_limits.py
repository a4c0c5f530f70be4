"""Whatever a template does takes little time and memory; the process that renders is bounded and replaced."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pgrpo_cli.recipe import templates
from pgrpo_cli.recipe.templates import Template, TemplateProblem

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
    Template("").render({})
    limits = Path(f"/proc/{templates._worker._process.pid}/limits").read_text()
    assert re.search(r"Max open files +0 +0 ", limits)
    assert re.search(r"Max processes +0 +0 ", limits)


def test_many_rows_are_what_they_are_one_by_one():
    template = Template("{{ x }}{{ range(1000)|random }}")
    # Long ones too, which take a request of their own.
    rows = [{"x": n if n % 7 else None} for n in range(300)] + [{"x": "a" * 100_000}] * 3 + [{"x": {1}}]
    one_by_one = []
    for row in rows:
        try:
            one_by_one.append(template.render(row))
        except TemplateProblem as problem:
            one_by_one.append(str(problem))
    found = template.render_all(rows)
    assert [text if isinstance(text, str) else str(text) for text in found] == one_by_one
    assert [isinstance(text, TemplateProblem) for text in found[:8]] == [True, *[False] * 6, True]
    assert template.render_all([]) == []


def test_a_row_that_ends_the_process_costs_no_other(impatient):
    template = Template("{% for i in range(n) %}{% for i in range(n) %}{% endfor %}{% endfor %}{{ n }}")
    first, worst, *others = template.render_all([{"n": n} for n in (1, 99_999, 2, 3)])
    assert (first, others) == ("1", ["2", "3"])
    assert isinstance(worst, TemplateProblem)
    assert worst.exhausted
