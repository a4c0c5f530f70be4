"""`pgrpo chat` at its edges: one question for scripts, lines through a pipe, commands, hostile answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pgrpo_cli.cli.app import app
from pgrpo_cli.cli.chat import _Session
from pgrpo_cli.conversation.speaker import Reply
from pgrpo_cli.errors import TrainingError
from pgrpo_cli.feedback.file import read_feedback
from tests.support.training import trained, write_tiny

CONDITIONING = {
    "type": "profiles",
    "profiles": {"often": "Comes daily.", "seldom": "Comes once a year.", "é": "Writes accents."},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chatted")
    data = {"source": {"type": "jsonl", "path": "rows.jsonl"}, "conditioning": CONDITIONING}
    trained(write_tiny(folder, data=data), folder / "run", "--set", "train.steps=2")
    return folder / "run"


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def _chat(run: Path, *options: object, lines: str = "") -> Result:
    return CliRunner().invoke(app, ["chat", str(run), *map(str, options)], input=lines)


def test_one_question_as_json_is_alone_on_standard_output(run: Path) -> None:
    result = _chat(run, "--as", "often", "--once", "Hello?", "--json")
    found = json.loads(result.stdout)
    assert found.keys() == {"answer", "preference_group", "model", "prompt"}
    assert (found["preference_group"], found["model"]) == ("often", "tuned")
    assert "Comes daily." in found["prompt"] and "Hello?" in found["prompt"]
    assert (result.exit_code, result.stderr) == (0, "")
    other = json.loads(_chat(run, "--as", "seldom", "--base", "--once", "Hello?", "--json").stdout)
    assert other["model"] == "base" and "once a year" in other["prompt"]


def test_lines_of_a_pipe_are_questions_and_commands(run: Path) -> None:
    said = run.parent / "said.json"
    result = _chat(run, "--as", "often", lines=f"Hello?\n/up\n/edit Yes.\n/save {said}\n/quit\nnever asked\n")
    assert result.exit_code == 0, result.stderr
    liked, edited = read_feedback(run / "feedback.jsonl").ratings
    assert (liked.rating, edited.edited) == (1, "Yes.")
    saved = json.loads(said.read_text("utf-8"))
    assert [turn["question"] for turn in saved["turns"]] == ["Hello?"]
    for note in ("Device: cpu, ", "system: ", "Comes daily."):
        assert note in result.stderr


def test_a_mistake_is_told_and_the_conversation_goes_on(run: Path) -> None:
    result = _chat(run, lines="/up\n/nonsense\n/as nobody\n/edit\nHello?\n/down\n")
    assert result.exit_code == 1
    mistakes = ("no answer yet", "no command /nonsense", "no preference group 'nobody'", "Write /edit TEXT")
    for message in mistakes:
        assert message in result.stderr
    (rating,) = read_feedback(run / "feedback.jsonl").ratings
    assert rating.rating == -1


def test_in_a_terminal_the_person_has_seen_the_mistake(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter(["/nonsense", "/quit"])
    monkeypatch.setattr(_Session, "is_typed", True)
    monkeypatch.setattr("pgrpo_cli.cli.chat.ask", lambda text: next(lines))
    result = _chat(run)
    assert "no command /nonsense" in result.stderr and result.exit_code == 0


@pytest.mark.parametrize("command", ["/up", "/down", "/edit Yes.", "/retry", "/rewards"])
def test_no_earlier_answer_is_rated_after_a_question_without_one(run: Path, command: str) -> None:
    result = _chat(run, lines=f"Hello?\n{'x' * 10_000}\n{command}\n")
    assert result.exit_code == 1
    assert "that the model reads" in result.stderr and "the last question has no answer" in result.stderr
    assert not (run / "feedback.jsonl").exists()


def test_help_lists_every_command(run: Path) -> None:
    shown = _chat(run, lines="/help\n").stdout
    for name in ("/as", "/base", "/rewards", "/up", "/down", "/edit", "/retry", "/save", "/help"):
        assert f"{name} " in shown


def test_base_and_tuned_answer_beside_each_other(run: Path) -> None:
    shown = _chat(run, lines="/base\nHello?\n/base\nHello?\n").stdout
    assert shown.count("base: ") == 1 and shown.count("tuned: ") == 1


def test_rewards_of_an_answer_are_shown_part_by_part(run: Path) -> None:
    assert "length" in _chat(run, "--as", "often", lines="Hello?\n/rewards\n").stdout


def test_what_a_model_says_cannot_move_the_cursor(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pieces(self: Reply) -> Iterator[str]:
        self.text = "\x1b[2J\u202e[bold]"
        yield self.text

    monkeypatch.setattr(Reply, "__iter__", pieces)
    shown = _chat(run, lines="Hello?\n").stdout
    assert "\\u001b[2J\\u202e[bold]" in shown and "\x1b" not in shown
    once = _chat(run, "--once", "Hello?", "--json").stdout
    assert "\x1b" not in once and json.loads(once)["answer"] == "\x1b[2J\u202e[bold]"


@pytest.mark.parametrize("fails", [True, False], ids=["fails", "is stopped"])
def test_an_answer_stays_where_a_retry_fails_or_is_stopped(
    run: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    answers = iter(["An answer.", None])

    def pieces(self: Reply) -> Iterator[str]:
        self.text = next(answers) or ""
        if self.text:
            self.finished = True
            yield self.text
        elif fails:
            raise TrainingError("no memory", remedy="")

    monkeypatch.setattr(Reply, "__iter__", pieces)
    result = _chat(run, lines="Hello?\n/retry\n/up\n")
    assert result.exit_code == fails and ("no memory" in result.stderr) == fails
    (rating,) = read_feedback(run / "feedback.jsonl").ratings
    assert rating.answer == "An answer."


def test_what_cannot_be_written_ends_no_conversation(run: Path) -> None:
    place = run.parent
    lines = (
        "Hello?", "/save .", f"/save {place}", f"/save {place}/no/x.json", f"/edit {'x' * 1_000_001}", "/up",
        f"/save {place}/said.json",
    )  # fmt: skip
    result = _chat(run, lines="\n".join(lines))
    assert result.exit_code == 1, result.stderr
    assert result.stderr.count("could not be written: Is a directory") == 2
    assert "no/x.json could not be written: No such file or directory" in result.stderr
    assert "it cannot be recorded: edited: " in result.stderr
    assert [rating.rating for rating in read_feedback(run / "feedback.jsonl").ratings] == [1]
    assert len(json.loads((place / "said.json").read_text("utf-8"))["turns"]) == 1


@pytest.mark.parametrize(("name", "recorded"), [("x" * 240, "x" * 200), ("a\nb", "a\\nb"), (" ", "unnamed")])
def test_answers_of_a_run_of_any_name_are_rated(run: Path, name: str, recorded: str) -> None:
    result = _chat(run.rename(run.with_name(name)), lines="Hello?\n/up\n")
    assert result.exit_code == 0, result.stderr
    (rating,) = read_feedback(run.with_name(name) / "feedback.jsonl").ratings
    assert rating.run == recorded


def test_a_byte_that_is_no_text_is_asked_as_a_character(run: Path) -> None:
    result = _chat(run, "--once", "caf\udce9?", "--profile", "Sings \udce9.", "--json")
    assert result.exit_code == 0, result.stderr
    prompt = json.loads(result.stdout)["prompt"]
    assert "caf\ufffd?" in prompt and "Sings \ufffd." in prompt


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--as", "nobody", "--once", "x"), 2, "no preference group 'nobody'"),
        (("--as", "often", "--user", "ana"), 2, "all say who asks"),
        (("--user", "x" * 201, "--once", "x"), 2, "the user's name: "),
        (("--json",), 2, "--json: found no --once"),
        (("--step", 1, "--once", "x"), 2, "step"),
    ],
)
def test_what_cannot_be_done_is_said(run: Path, options: Any, code: int, message: str) -> None:
    result = _chat(run, *options)
    assert result.exit_code == code
    assert message in result.stderr and "Traceback" not in result.stderr


def test_ratings_that_cannot_be_kept_end_no_conversation(run: Path) -> None:
    (run / "feedback.jsonl").mkdir()
    result = _chat(run, lines="Hello?\n/up\nHello again?\n")
    assert result.exit_code == 1
    assert "feedback.jsonl" in result.stderr
    assert len(result.stdout.splitlines()) >= 2
