"""Which questions a taste test asks, and in which order."""

from __future__ import annotations

from pathlib import Path

from pgrpo_cli.conversation.questions import Question, shuffled, trained_questions
from pgrpo_cli.feedback.file import append
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
