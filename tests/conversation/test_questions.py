"""Which questions a taste test asks, and in which order."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgrpo_cli.conversation import questions
from pgrpo_cli.conversation.questions import Question, shuffled, trained_questions
from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.feedback.file import append
from pgrpo_cli.recipe.conditioning import ExamplesConditioning, PromptConditioning
from pgrpo_cli.recipe.load import load_recipe
from tests.support.picks import QUESTION, picks_of
from tests.support.training import write_tiny


def _questions(count: int) -> list[Question]:
    return [Question(f"q{i}", f"question {i}") for i in range(count)]


def test_questions_that_were_asked_before_come_last() -> None:
    order = [q.prompt_id for q in shuffled(_questions(10), 0, "ana", skip={"q3", "q7"})]
    assert sorted(order) == sorted(q.prompt_id for q in _questions(10))
    assert set(order[-2:]) == {"q3", "q7"}
    assert order[:8] != sorted(order[:8])


def test_questions_of_training_come_after_all_others_and_training_prompts_last() -> None:
    trained = {"question 1": 2, "question 2": 1, "question 5": 2}
    order = shuffled(_questions(6), 0, "ana", skip={"q0", "q1"}, trained=trained)
    names = [question.prompt_id for question in order]
    assert set(names[:2]) == {"q3", "q4"} and names[2:] == ["q0", "q2", "q5", "q1"]


def test_a_run_was_trained_on_its_prompts_and_on_the_picks_of_its_reward(tmp_path: Path) -> None:
    for pick in picks_of("ana", len, 2):
        append(tmp_path / "picks.jsonl", pick)
    rewards = [{"type": "length", "max": 6}, {"type": "taste", "path": "picks.jsonl"}]
    recipe = load_recipe(write_tiny(tmp_path, rewards=rewards))
    assert trained_questions(tmp_path / "none", recipe, tmp_path) == {QUESTION: 1}
    assert trained_questions(tmp_path / "none", recipe, tmp_path / "elsewhere") == {}


def _asked(monkeypatch: pytest.MonkeyPatch, *prompts: list[dict[str, str]], **section: str) -> list[Question]:
    """The questions of data with these prompts."""
    found = [
        PreparedPrompt(f"p{n}", "often", "", (), {}, tuple(messages)) for n, messages in enumerate(prompts)
    ]
    monkeypatch.setattr(questions, "load_prepared", lambda run_dir, half: found)
    conditioning = ExamplesConditioning.model_validate(section) if section else PromptConditioning()
    return questions.questions_of_data(Path(), conditioning)


def _said(*texts: str) -> list[dict[str, str]]:
    return [{"role": "assistant" if n % 2 else "user", "content": text} for n, text in enumerate(texts)]


def test_a_line_of_a_file_of_questions_ends_at_a_line_feed_alone(tmp_path: Path) -> None:
    # JSON may hold these two as they are.
    path = tmp_path / "questions.jsonl"
    path.write_bytes('{"prompt": "One\u2028and\u0085two?"}\r\nThree?\n'.encode())
    assert [question.text for question in questions.questions_of(path)] == [
        "One\u2028and\u0085two?",
        "Three?",
    ]


def test_a_question_of_the_data_keeps_the_conversation_that_it_continues(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = {"role": "system", "content": "Be kind."}
    follow_up = [system, *_said("Tea?", "Yes.", "Why?")]
    found = _asked(monkeypatch, follow_up, _said("Rain?", "No.", "Why?"), _said("Why?"))
    assert {question.text for question in found} == {"Why?"}
    turns = [list(question.turns or ()) for question in found]
    assert turns == [_said("Tea?", "Yes."), _said("Rain?", "No."), []]


def test_the_same_conversation_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = _said("Tea?", "Yes.", "Why?")
    assert len(_asked(monkeypatch, twice, twice, _said("Why?"))) == 2


def test_examples_before_a_question_are_no_turns_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    some, others = _said("Tea?", "Yes.", "Why?"), _said("Rain?", "No.", "Why?")
    (question,) = _asked(monkeypatch, some, others, type="examples")
    assert question.turns is None


@pytest.mark.parametrize(("groups", "kept"), [(("a", "b"), [None]), (("a", "a"), [2, 2])])
def test_turns_before_all_questions_of_several_groups_tell_who_asks(
    monkeypatch: pytest.MonkeyPatch, groups: tuple[str, str], kept: list[int | None]
) -> None:
    # As in quickstart, whose prompts begin with what their user played and liked.
    said = _said("I like tea.", "Good.", "Tip?"), _said("I like rain.", "Good.", "Tip?")
    prompts = [
        PreparedPrompt(f"p{n}", group, "", (), {}, tuple(messages))
        for n, (messages, group) in enumerate(zip(said, groups, strict=True))
    ]
    monkeypatch.setattr(questions, "load_prepared", lambda run, half: prompts)
    found = questions.questions_of_data(Path(), PromptConditioning())
    assert [None if question.turns is None else len(question.turns) for question in found] == kept
