"""`rewards list` and `rewards try` from the outside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from pgrpo_cli.cli.app import app
from pgrpo_cli.feedback.file import append
from pgrpo_cli.rewards.build import BUILDERS
from pgrpo_cli.state.ownership import take
from tests.support.judge import Answer, echo, judge_server
from tests.support.picks import picks_of
from tests.support.training import TINY

LENGTH = {"type": "length", "max": 2, "slack": 4, "weight": 2}
FILMS = {"type": "recommendation", "preference_groups": ["films"]}
ROUGE = {"type": "rouge", "reference_column": "answer"}


def pgrpo(*arguments: object, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def write(folder: Path, *rewards: dict[str, Any], rows: list[dict[str, Any]] | None = None) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY, "rewards": list(rewards)}))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows or []))
    return path


def tried(recipe: Path, *options: object, stdin: str | None = None) -> list[dict[str, Any]]:
    result = pgrpo(
        "rewards", "try", recipe, "--json", "--run-dir", recipe.parent / "run", *options, stdin=stdin
    )
    assert result.exit_code == 0, result.stderr
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def test_every_type_is_listed_with_its_parts() -> None:
    lines = pgrpo("rewards", "list").stdout.splitlines()
    names = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert sorted(names) == sorted(section.model_fields["type"].default for section in BUILDERS)
    assert any(line.split()[:4] == ["recommendation", "hit,", "rank,", "candidate"] for line in lines)


def test_texts_are_scored_for_the_preference_groups_of_the_recipe(tmp_path: Path) -> None:
    recipe = write(tmp_path, LENGTH, {**LENGTH, "name": "short", "max": 1, "preference_groups": ["a", "b"]})
    found = tried(recipe, "--text", "one two three", "--text", "one")
    assert [(row["text"], row["preference_group"]) for row in found] == [
        ("one two three", "a"), ("one two three", "b"), ("one", "a"), ("one", "b")
    ]  # fmt: skip
    # Three words: 1 over 2 is 0.75, 2 over 1 is 0.5.
    assert found[0]["value"] == 2 * 0.75 + 2 * 0.5
    assert found[0]["rewards"][0] == {
        "name": "length",
        "value": 0.75,
        "weight": 2.0,
        "weighted": 1.5,
        "range": [0.0, 1.0],
        "parts": {"value": {"value": 0.75, "weight": 2.0, "weighted": 1.5}},
    }


def test_named_groups_and_columns(tmp_path: Path) -> None:
    recipe = write(tmp_path, LENGTH, FILMS)
    column = ("--column", "target=Heat")
    (films, others) = tried(recipe, "--text", "Heat", "--group", "films", "--group", "x", *column)
    assert [reward["name"] for reward in films["rewards"]] == ["length", "recommendation"]
    assert films["rewards"][1]["parts"]["candidate"] == {"value": None, "weight": 0.0, "weighted": 0.0}
    assert [reward["name"] for reward in others["rewards"]] == ["length"]
    (films,) = tried(recipe, "--text", "Ronin", "--column", 'target=["Heat", "Ronin"]')
    assert films["rewards"][1]["value"] == 1


def test_a_recipe_without_names_is_tried_for_any_group(tmp_path: Path) -> None:
    (found,) = tried(write(tmp_path, LENGTH), "--text", "one")
    assert found["preference_group"] == "any"


def test_personas_are_tried_each(tmp_path: Path) -> None:
    recipe = write(tmp_path, {"type": "personas"})
    data = ("--set", "data.source={type: personas}")
    found = tried(recipe, "--text", "Play me some jazz", *data)
    assert len(found) == 7
    (jazz,) = [row for row in found if row["preference_group"] == "terse-jazz"]
    # -1 + 3 * (0.6 * 1 + 0.4 * 0.6), as in tests/rewards/test_personas.py
    assert jazz["value"] == pytest.approx(1.52)
    assert jazz["rewards"][0]["parts"]["style"] == {"value": 1.0, "weight": None, "weighted": None}


def test_a_file_brings_prompts_groups_and_columns(tmp_path: Path) -> None:
    recipe = write(tmp_path, ROUGE)
    rows = [{"text": "a b", "answer": "a b", "preference_group": "films"}, {"text": "a x", "answer": "a b"}]
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    found = tried(recipe, "--file", file)
    assert [(row["preference_group"], row["value"]) for row in found] == [("films", 1.0), ("any", 0.5)]
    assert [row["prompt_id"] for row in found] == [f"{file}:1", f"{file}:2"]
    # The same as an array.
    file.write_text(json.dumps(rows, indent=1))
    assert [row["value"] for row in tried(recipe, "--file", file)] == [1.0, 0.5]
    found = tried(recipe, "--file", file, "--group", "g", "--column", "answer=a x")
    assert [(row["preference_group"], row["value"]) for row in found] == [("g", 0.5), ("g", 1.0)]


def test_without_texts_reference_answers_of_prepared_data_are_scored(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"{group} {i}", "preference_group": group, "answer": f"{group} {i}"}
        for group in ("a", "b")
        for i in range(8)
    ]
    recipe = write(tmp_path, ROUGE, rows=rows)
    assert pgrpo("prepare", recipe, "--run-dir", tmp_path / "run").exit_code == 0
    found = tried(recipe, stdin="not read")
    assert [(row["preference_group"], row["value"]) for row in found] == [("a", 1.0)] * 3 + [("b", 1.0)] * 3
    assert all(row["text"].startswith(row["preference_group"]) for row in found)
    found = tried(recipe, "--group", "b")
    assert [row["preference_group"] for row in found] == ["b"] * 3
    # Given texts are scored for the groups of the data.
    found = tried(recipe, "--text", "a", "--column", "answer=a")
    assert [row["preference_group"] for row in found] == ["a", "b"]


def test_without_data_standard_input_is_one_text(tmp_path: Path) -> None:
    (found,) = tried(write(tmp_path, LENGTH), stdin="one\ntwo\n")
    assert (found["text"], found["value"]) == ("one\ntwo", 2.0)


def test_the_table_shows_rewards_parts_and_totals(tmp_path: Path) -> None:
    recipe = write(tmp_path, LENGTH, FILMS)
    result = pgrpo("rewards", "try", recipe, "--text", "[red]Heat", "--column", "target=Heat")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["[red]Heat"]
    assert ["films", "length", "1.0000", "2", "2.0000", "0", "to", "1"] in lines
    assert ["recommendation", "1.0000", "1", "1.0000", "0", "to", "1"] in lines
    assert ["hit", "1.0000", "0.7", "0.7000"] in lines
    assert ["candidate", "no", "reward", "0", "0.0000"] in lines
    assert ["total", "3.0000"] in lines
    readable = {"type": "readability", "max": 5}
    result = pgrpo("rewards", "try", write(tmp_path, readable), "--text", "The cat sat on the mat.")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["grade", "-1.4500", "0", "0.0000"] in lines
    assert not any(line and line[0] == "value" for line in lines)


def test_code_runs_on_demand_only(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def reward(prompts, completions, **columns):\n    return [7.0]\n")
    recipe = write(tmp_path, {"type": "python", "file": "mine.py"})
    result = pgrpo("rewards", "try", recipe, "--text", "x")
    assert (result.exit_code, "--allow-code" in result.stderr) == (2, True)
    (found,) = tried(recipe, "--text", "x", "--allow-code")
    assert (found["value"], found["rewards"][0]["range"]) == (7.0, None)


def test_a_judge_is_asked_and_its_scores_are_kept_in_a_run_directory(tmp_path: Path) -> None:
    with judge_server(echo) as server:
        judge = {"type": "judge", "base_url": server.url, "model": "small", "backoff_s": 0.001, "retries": 0}
        recipe = write(tmp_path, {**judge, "weight": 2})
        (first,) = tried(recipe, "--text", '{"score": 4}')
        # (4 - 1) / (10 - 1)
        assert (first["rewards"][0]["value"], first["value"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
        assert not (tmp_path / "run").exists()
        take(tmp_path / "run")
        assert [tried(recipe, "--text", '{"score": 4}') for _ in range(3)] == [[first]] * 3
        assert len(server.asked) == 2
        assert (tmp_path / "run" / "judge.sqlite").is_file()
        result = pgrpo("rewards", "try", recipe, "--text", '{"score": 4}', "--run-dir", tmp_path / "run")
        assert "judge: calls 0, cached 1, failed 0" in result.stderr


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(raw=b'{"error": "no such model: small"}', status=400), '400 Bad Request: {"error": "no such'),
        (Answer("7", finish_reason="length"), "cut off at 256 tokens; raise max_tokens: it said '7'"),
        (Answer("I like it."), "it holds no score: it said 'I like it.'"),
        (Answer(""), "it is empty"),
    ],
)
def test_a_judge_that_gives_no_score_fails_with_its_words(tmp_path: Path, answer: Answer, said: str) -> None:
    with judge_server(lambda asked: answer if "odd" in asked.text else "10") as server:
        judge = {"type": "judge", "base_url": server.url, "model": "small", "backoff_s": 0.001}
        recipe = write(tmp_path, judge)
        result = pgrpo("rewards", "try", recipe, "--text", "odd")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "gave no answer that can be used to any of 1 questions: 1 x " in result.stderr
        assert said in result.stderr
        # One that answers some: what is missing is explained beside the table.
        result = pgrpo("rewards", "try", recipe, "--text", "odd", "--text", "fine")
        assert result.exit_code == 0
        assert "no reward" in result.stdout and "total  " in result.stdout
        assert "judge: 1 question has no answer that can be used: 1 x " in result.stderr
        assert said in result.stderr


def test_a_judge_that_is_not_there_is_a_message(tmp_path: Path) -> None:
    with judge_server(lambda asked: Answer(status=503, raw=b"out of memory")) as server:
        judge = {"type": "judge", "base_url": server.url, "model": "small", "backoff_s": 0.001, "retries": 0}
        result = pgrpo("rewards", "try", write(tmp_path, judge), "--text", "x")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "out of memory" in result.stderr


def test_a_judge_elsewhere_needs_leave_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with judge_server(echo) as server:
        # A proxy of the environment stands for the other machine.
        monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1"))
        judge = {"type": "judge", "base_url": "http://judge.example.org/v1", "model": "small"}
        recipe = write(tmp_path, judge)
        text = ("--text", '{"score": 10}')
        result = pgrpo("rewards", "try", recipe, *text)
        assert (result.exit_code, server.asked) == (2, [])
        assert "add --allow-host judge.example.org" in result.stderr
        (found,) = tried(recipe, *text, "--allow-host", "judge.example.org")
        assert found["value"] == 1.0
        assert [asked.path for asked in server.asked] == ["http://judge.example.org/v1/chat/completions"]


@pytest.mark.parametrize(
    ("options", "stdin", "code", "said"),
    [
        ((), " \n", 2, "there is no text to score"),
        (("--text", "x", "--column", "target"), None, 2, "--column 'target' is no KEY=VALUE"),
        (("--file", "gone.jsonl"), None, 2, "gone.jsonl cannot be read: No such file"),
        (("--file", "bad.jsonl"), None, 2, "bad.jsonl:2: not JSON"),
        (("--file", "table.csv"), None, 2, "table.csv is CSV, and it is to be read as JSON"),
        (("--file", "."), None, 2, ". cannot be read: Is a directory"),
        (("--file", "textless.jsonl"), None, 2, "textless.jsonl:1: 'text' is None, no text"),
        (("--file", "empty.jsonl"), None, 2, "empty.jsonl holds no text to score"),
        (("--file", "latin.jsonl"), None, 2, "save the file as UTF-8\n"),
        (("--text", "x", "--group", "films"), None, 1, "the data lack column 'target'"),
    ],
)
def test_mistakes_are_explained(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    stdin: str | None,
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.jsonl").write_text('{"text": "x"}\n{"text"\n')
    (tmp_path / "table.csv").write_text("text,prompt\nx,y\nx,y\n")
    (tmp_path / "textless.jsonl").write_text('{"prompt": "x"}\n')
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "caf\xe9"}\n')
    result = pgrpo("rewards", "try", write(tmp_path, LENGTH, FILMS), *options, stdin=stdin)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr
    assert result.stderr.splitlines()[-1].startswith("  ")


def test_a_taste_says_what_it_has_learnt_and_what_each_feature_contributes(tmp_path: Path) -> None:
    for pick in picks_of("ana", lambda text: -len(text), 30):
        append(tmp_path / "taste.jsonl", pick)
    recipe = write(tmp_path, {"type": "taste", "path": "taste.jsonl"})
    shown = pgrpo("rewards", "try", recipe, "--text", "Tea.", "--prompt", "Tea or coffee?")
    assert "taste: ana: 30 picks; " in " ".join(shown.stderr.split())
    assert "likes shorter answers" in " ".join(shown.stderr.split())
    (found,) = tried(recipe, "--text", "Tea.", "--prompt", "Tea or coffee?")
    (reward,) = found["rewards"]
    assert (found["preference_group"], reward["range"]) == ("ana", [0, 1])
    assert reward["details"]["length"] > 0
    rows = [line.split() for line in shown.stdout.splitlines()]
    assert ["length", f"{reward['details']['length']:+.2f}"] in rows
