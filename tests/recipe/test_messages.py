"""What is said about a recipe is short and on lines of its own, whatever stands in it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pgrpo_cli.recipe.messages import MOST_PROBLEMS, InvalidRecipe, plain, show
from tests.support.recipes import load_text

HEAD = "name: a\nmodel: {id: random}\ndata: {source: {type: personas}}\nrewards: [{type: personas}]\n"


def said(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(InvalidRecipe) as caught:
        load_text(folder, text, *overrides)
    return str(caught.value).replace(str(folder), "")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\x1b[31m", r"a\nb\x1b[31m"),
        ("\u202eabc\u200b", r"\u202eabc\u200b"),
        ("é 日本", "é 日本"),
        ("x" * 61, "x" * 57 + "..."),
    ],
)
def test_text_is_plain(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_values_are_plain() -> None:
    assert show("a\n\u202e") == r'"a\n\u202e"'
    assert show("x" * 1_000_000) == '"' + "x" * 56 + "..."


@pytest.mark.parametrize(
    "text",
    [
        f'{HEAD}? "{"k" * 900_000}"\n: 1\n',
        f'{HEAD}train: {{? "{"k" * 900_000}"\n: 1}}\n',
        f"{HEAD}train: {{steps: {'v' * 900_000}}}\n",
        HEAD.replace("random", f'"./{"v/" * 400_000}\\0"'),
        HEAD.replace("random}", f"random, revision: {'v' * 900_000}}}"),
        HEAD.replace("name: a", f"name: {'é' * 400_000}"),
        HEAD.replace("personas}}", f"{'t' * 900_000}}}}}"),
        HEAD.replace("[{type: personas}", f"[{{? '{'type' * 200_000}'\n: personas}}"),
        HEAD.replace("{type: personas}]", f"{{type: regex, pattern: '({'v' * 900_000}'}}]"),
        HEAD + f"eval: {{judge: {{base_url: 'http://a:{'v' * 900_000}', model: m}}}}\n",
        HEAD + f"eval: {{judge: {{base_url: 'http://a', model: m, rubric: '{{{{ {'v' * 900_000} }}}}'}}}}\n",
    ],
)
def test_a_long_key_or_value_makes_no_long_message(tmp_path: Path, text: str) -> None:
    report = said(tmp_path, text)
    assert len(report) < 3000
    assert report.count("\n") <= 3


def test_a_long_override_makes_no_long_message(tmp_path: Path) -> None:
    report = said(tmp_path, HEAD, f"train.steps={'v' * 100_000}", f"{'k' * 100_000}.x=1", f"{'n' * 100_000}")
    assert len(report) < 2000


def test_odd_characters_are_escaped(tmp_path: Path) -> None:
    report = said(tmp_path, HEAD + '"\\e[31m\\u202E\\n": "\\e[2J"\ntrain: {steps: \u202e}\n', "\x1b[2J=3")
    assert all(line.isprintable() for line in report.splitlines())
    assert report.count("\n") == 3


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "".join(f"kex{i}: 1\n" for i in range(15_000)),
        HEAD + "log: {trackers: [" + "x," * 15_000 + "]}\n",
        HEAD.replace("[{type: personas}]", "[" + "{type: persona}," * 6000 + "]"),
    ],
    ids=["keys", "values", "types"],
)
def test_thousands_of_problems_are_not_listed(tmp_path: Path, text: str) -> None:
    started = time.process_time()
    report = said(tmp_path, text)
    # Looking at all of them took 45 to 70 seconds; the rest is YAML.
    assert time.process_time() - started < 8
    assert report.startswith("/recipe.yaml has more than 100 problems; the first of them:\n")
    assert report.count("\n") == MOST_PROBLEMS
