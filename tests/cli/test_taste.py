"""`pgrpo taste` without a terminal: picks from a file, and a program that picks line by line."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pgrpo_cli.cli.app import app
from pgrpo_cli.cli.taste import _typed_question
from pgrpo_cli.conversation.conversation import persona_of
from pgrpo_cli.conversation.speaker import Reply
from pgrpo_cli.data.prepared import load_prepared
from pgrpo_cli.feedback.file import read_feedback
from pgrpo_cli.state.run import run_at
from tests.support.training import trained, write_half_referenced, write_tiny

REWARDS = [
    {"type": "length", "name": "short", "unit": "characters", "max": 3, "preference_groups": ["often"]},
    {
        "type": "length",
        "name": "long",
        "unit": "characters",
        "min": 9,
        "max": 99,
        "preference_groups": ["seldom"],
    },
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasted")
    trained(write_tiny(folder, rewards=REWARDS), folder / "run", "--set", "train.learning_rate=0.3")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "folder"))


def _taste(target: Path, *options: object, user: str = "ana", lines: str = "") -> Result:
    arguments = ["taste", str(target), "--user", user, *map(str, options)]
    return CliRunner().invoke(app, arguments, input=lines)


def _answers(folder: Path, text: str) -> Path:
    (folder / "answers.txt").write_text(text)
    return folder / "answers.txt"


def test_picks_from_a_file_end_with_a_win_rate_and_a_place(folder: Path) -> None:
    answers = _answers(folder, "1\n2\n=\ns\n")
    result = _taste(folder / "run", "--between", "base,tuned", "--answers", answers, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    rate = {"wins", "losses", "ties", "win_rate", "ci_low", "ci_high"}
    assert found.keys() == {*rate, "models", "trained_questions", "placement"}
    assert found["models"] == ["base", "tuned"]
    picks = read_feedback(folder / "run" / "taste.jsonl").picks
    # A pair of equal answers is a tie that nobody is asked about.
    unasked = sum(len(set(pick.answers)) == 1 for pick in picks)
    assert found["wins"] + found["losses"] == 2 and found["ties"] == 1 + unasked
    assert found["win_rate"] == pytest.approx((found["wins"] + found["ties"] / 2) / len(picks))
    assert found["ci_low"] < found["win_rate"] < found["ci_high"]
    assert set(found["placement"]) == {"often", "seldom", "é", "nobody yet"}
    assert len(picks) == 3 + unasked


def test_questions_that_the_run_was_trained_on_are_asked_last_and_told(folder: Path) -> None:
    trained_on = [prompt.messages[-1]["content"] for prompt in load_prepared(folder / "run", "train")][:10]
    questions = folder / "questions.txt"
    questions.write_text("\n".join([*trained_on, "What shall I cook?", " Where to? "]) + "\n")
    options = ("--between", "base,tuned", "--prompts", questions, "--pairs", 4)
    result = _taste(folder / "run", *options, "--answers", _answers(folder, "1\n2\n=\n1\n"))
    assert result.exit_code == 0, result.stderr
    asked = [pick.messages[-1]["content"] for pick in read_feedback(folder / "run" / "taste.jsonl").picks]
    assert set(asked[:2]) == {"What shall I cook?", "Where to?"} and set(asked[2:]) <= set(trained_on)
    assert f"{len(asked) - 2} of {len(asked)} questions were training prompts" in result.stdout
    assert "10 of 12 questions were in training, and are asked last: 2 others come first" in result.stderr
    # Another run that is compared was trained on something, too.
    shutil.copytree(folder / "run", folder / "other")
    new = _answers(folder, "1\n")
    both = _taste(folder / "other", "--between", f"base,{folder / 'run'}", "--answers", new, "--json")
    assert json.loads(both.stdout)["trained_questions"] == 0


def test_of_samples_nobody_wins(folder: Path) -> None:
    found = json.loads(_taste(folder / "run", "--answers", _answers(folder, "1\n1\n"), "--json").stdout)
    assert (found["wins"], found["losses"], found["win_rate"], found["models"]) == (0, 0, None, None)
    picks = read_feedback(folder / "run" / "taste.jsonl").picks
    assert all((name or "").startswith("tuned@") for pick in picks for name in pick.models)


def test_names_are_told_at_the_end_only(folder: Path) -> None:
    result = _taste(folder / "run", "--between", "base,tuned", "--pairs", 2, lines="1\nu\n2\n=\n")
    assert result.exit_code == 0, result.stderr
    pairs, _, end = result.stdout.partition("tuned against base")
    assert "base" not in pairs and "tuned" not in pairs and "win rate" in end


@pytest.mark.parametrize("marks", ["1 2 1", "1 u 1 2 1", "1 2 u u 1 2 1", "1 2 u 2 1"])
def test_the_same_pick_after_an_undo_changes_nothing(folder: Path, marks: str) -> None:
    for name, given in (("plain", "1 2 1"), ("undone", marks)):
        answers = _answers(folder, given.replace(" ", "\n"))
        options = ("--between", "base,tuned", "--answers", answers, "--output", folder / name, "--json")
        result = _taste(folder / "run", *options, "--pairs", 3)
        assert result.exit_code == 0, result.stderr
        (folder / f"{name}.json").write_text(result.stdout)
    picks = [
        {(p.prompt_id, p.answers, p.pick) for p in read_feedback(folder / n).picks}
        for n in ("plain", "undone")
    ]
    assert picks[0] == picks[1]
    assert (folder / "plain.json").read_text() == (folder / "undone.json").read_text()


def test_equal_answers_end_the_test_with_a_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reply, "read", lambda self: "Yes.")
    questions = folder / "questions.txt"
    questions.write_text("\n".join(map(str, range(12))))
    result = _taste(folder / "run", "--between", "base,tuned", "--prompts", questions, lines="1\n")
    assert result.exit_code == 0, result.stderr
    assert "The two answers were the same for 10 questions in a row, so no more are asked." in result.stderr
    assert "0 won, 0 lost, 10 the same" in result.stdout


def test_a_program_gets_a_pair_a_line_and_answers_with_a_pick(folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pgrpo_cli",
        "taste",
        str(folder / "run"),
        "--user",
        "bo",
        "--pairs",
        "3",
    ]
    command += ["--answers", "-", "--json"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdin is not None and program.stdout is not None
        for _ in range(3):
            pair = json.loads(program.stdout.readline())
            assert pair.keys() == {"pair", "prompt_id", "turns", "question", "answers"}
            program.stdin.write("1\n" if len(pair["answers"][0]) < len(pair["answers"][1]) else "2\n")
            program.stdin.flush()
        end = json.loads(program.stdout.readline())
    assert program.returncode == 0 and sum(end["placement"].values()) == pytest.approx(1)
    assert len(read_feedback(folder / "run" / "taste.jsonl").picks) == 3


def test_a_killed_test_loses_no_pick(folder: Path) -> None:
    command = [sys.executable, "-m", "pgrpo_cli", "taste", str(folder / "run"), "--user", "bo"]
    with subprocess.Popen(
        [*command, "--answers", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdin is not None and program.stdout is not None
        for _ in range(2):
            program.stdout.readline()
            program.stdin.write("1\n")
            program.stdin.flush()
        program.stdout.readline()
        program.send_signal(signal.SIGKILL)
    assert len(read_feedback(folder / "run" / "taste.jsonl").picks) == 2
    # Nor where the picks place the person.
    persona_of(folder / "run", run_at(folder / "run").recipe(), user="bo")


def test_without_a_run_the_base_model_of_a_recipe_answers_questions_of_a_file(folder: Path) -> None:
    questions = folder / "questions.txt"
    questions.write_text('What shall I cook?\n\n{"prompt": "Where to?", "budget": 5}\n')
    result = _taste(
        folder / "tiny.yaml", "--prompts", questions, "--run-dir", folder / "new", "--output",
        folder / "picks.jsonl", "--answers", _answers(folder, "1\n2\n"), "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    picks = read_feedback(folder / "picks.jsonl").picks
    assert sorted(pick.messages[-1]["content"] for pick in picks) == ["What shall I cook?", "Where to?"]
    assert {name for pick in picks for name in pick.models} == {"base"}


def test_a_run_begins_where_picks_were_made_before(folder: Path) -> None:
    questions, run = folder / "questions.txt", folder / "new"
    questions.write_text("What shall I cook?\n")
    begun = _taste(
        folder / "tiny.yaml", "--prompts", questions, "--run-dir", run, "--answers", _answers(folder, "1\n")
    )
    assert begun.exit_code == 0, begun.stderr
    picks = (run / "taste.jsonl").read_bytes()
    trained(folder / "tiny.yaml", run, "--set", "train.steps=1")
    assert (run / "taste.jsonl").read_bytes() == picks


def test_who_cannot_be_placed_by_a_question_goes_on_picking(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained(write_half_referenced(tmp_path), run)
    for _ in range(2):
        # The second time the picks of the first are read again.
        result = _taste(run, "--answers", _answers(tmp_path, "1\n1\n1\n"))
        assert result.exit_code == 0, result.stderr
    assert result.stderr.count("do not place you: reward 'chrf'") == 1


def test_a_reward_that_takes_no_part_in_the_placement_is_not_built(folder: Path) -> None:
    (folder / "mine.py").write_text("raise SystemExit('it was run')")
    code = {"type": "python", "file": "mine.py", "weight": 0.5}
    recipe = write_tiny(folder, rewards=[*REWARDS, code])
    result = _taste(recipe, "--run-dir", folder / "new", "--answers", _answers(folder, "1\n"), "--json")
    assert result.exit_code == 0, result.stderr
    assert set(json.loads(result.stdout)["placement"]) == {"often", "seldom", "é", "nobody yet"}


def test_picks_that_cannot_be_predicted_yet_are_no_reason_to_stop(folder: Path) -> None:
    """A taste reward of picks that are no better than chance, which more picks may help."""
    (folder / "early.jsonl").write_text("")
    recipe = write_tiny(folder, rewards=[{"type": "taste", "path": "early.jsonl"}])
    result = _taste(recipe, "--run-dir", folder / "new", "--answers", _answers(folder, "1\n"))
    assert result.exit_code == 0, result.stderr
    assert "note: nobody is placed in a preference group: " in result.stderr


def test_the_data_of_a_recipe_are_prepared_for_their_questions(folder: Path) -> None:
    result = _taste(
        folder / "tiny.yaml", "--run-dir", folder / "new", "--answers", _answers(folder, "1\n"), "--json"
    )
    assert result.exit_code == 0, result.stderr
    assert (folder / "new" / "data" / "manifest.json").exists()
    assert len(read_feedback(folder / "new" / "taste.jsonl").picks) == 1


def test_picks_are_kept_whatever_the_run_and_the_file_of_questions_are_called(folder: Path) -> None:
    run = (folder / "run").rename(folder / ("x" * 240))
    questions = folder / ("q" * 240)
    questions.write_text("What shall I cook?\nWhere to?\n")
    result = _taste(run, "--prompts", questions, "--answers", _answers(folder, "1\n"))
    assert result.exit_code == 0, result.stderr
    (pick,) = read_feedback(run / "taste.jsonl").picks
    assert pick.run == "x" * 200 and (pick.prompt_id or "").startswith("qqq")


@pytest.mark.parametrize("names", [("c/run", "d/run"), ("base", "d/base"), ("tuned", "tuned/")])
def test_two_runs_whose_folders_have_the_same_name_are_compared(
    folder: Path, names: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in {*names} - {"base", "tuned"}:
        shutil.copytree(folder / "run", folder / name)
    monkeypatch.chdir(folder)
    result = _taste(
        Path("run"), "--between", ",".join(names), "--answers", _answers(folder, "1\n2\n"), "--json"
    )
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["models"] == list(names)
    assert all(set(pick.models) == set(names) for pick in read_feedback(Path("run/taste.jsonl")).picks)


@pytest.mark.parametrize("names", ["tuned,run", "link,other", "base, base"])
def test_a_model_is_not_compared_with_itself(
    folder: Path, names: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder / "run", folder / "other")
    (folder / "link").symlink_to(folder / "other")
    monkeypatch.chdir(folder)
    result = _taste(Path("run"), "--between", names)
    assert result.exit_code == 2 and "twice the same" in result.stderr, result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--between", "base"), "two names with a comma"),
        (("--between", "base,base"), "twice the same"),
        (("--between", "base,nowhere"), "nowhere"),
        (("--answers", "nowhere.txt"), "cannot be read"),
        (("--prompts", "nowhere.txt"), "cannot be read"),
        (("--output", "nowhere/picks.jsonl"), "nowhere: there is no such folder"),
        (("--output", "."), "no regular file"),
        (("--as", "nobody"), "no preference group 'nobody'"),
    ],
)
def test_what_cannot_be_done_is_said(folder: Path, options: Any, message: str) -> None:
    result = _taste(folder / "run", *options)
    assert result.exit_code == 2
    assert message in result.stderr and "Traceback" not in result.stderr


def test_a_wrong_pick_of_a_file_is_named_with_its_line_before_anything_begins(folder: Path) -> None:
    result = _taste(folder / "run", "--answers", _answers(folder, "1\n3\n"))
    assert result.exit_code == 2
    assert "answers.txt:2: found '3'" in result.stderr
    # With line 2 corrected, line 1 is again the pick of the first pair.
    assert not (folder / "run" / "taste.jsonl").exists()


def test_a_program_that_writes_no_mark_fails_and_its_picks_before_are_kept(folder: Path) -> None:
    result = _taste(folder / "run", "--answers", "-", lines="1\n3\n")
    # 2 would say that nothing was begun.
    assert result.exit_code == 1
    assert "--answers -: found '3'" in result.stderr
    assert len(read_feedback(folder / "run" / "taste.jsonl").picks) == 1


def test_with_json_a_person_is_asked_on_standard_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = _taste(folder / "run", "--json", lines="1\n?\nq\n")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["wins"] == 0
    assert result.stderr.count("which is better?") == 3 and "  [1] " in result.stderr
    monkeypatch.setattr(sys, "stdin", StringIO(" Where to? \n"))
    assert _typed_question(aside=True) == "Where to?"
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "\nask something (nothing ends)> ")


@pytest.mark.parametrize("name", ["data", "adapter", "taste.jsonl"])
def test_a_recipes_run_is_read_through_no_link_in_it(folder: Path, name: str) -> None:
    run = folder / "run"
    (run / "taste.jsonl").touch()
    (run / name).rename(folder / "elsewhere")
    (run / name).symlink_to(folder / "elsewhere")
    own = ("--run-dir", run, "--set", "train.learning_rate=0.3")
    result = _taste(folder / "tiny.yaml", *own, "--answers", _answers(folder, "1\n"))
    assert result.exit_code == 2 and f"{name} is a link to" in result.stderr, result.stderr
