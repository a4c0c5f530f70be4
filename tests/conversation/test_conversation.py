"""A conversation: what the model sees of it, and what is kept of the person's opinion."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pgrpo_cli import chat
from pgrpo_cli.conversation.conversation import Conversation
from pgrpo_cli.errors import DataError, RecipeError
from pgrpo_cli.feedback.file import FEEDBACK, TASTE, append, read_feedback
from pgrpo_cli.feedback.records import Placed
from pgrpo_cli.recipe.evaluation import EvalSection
from pgrpo_cli.verbs.chat import AnswerRewards
from tests.support.training import trained, write_tiny

PROFILES = {
    "type": "profiles",
    "profiles": {"often": "Comes daily.", "seldom": "Comes once a year.", "é": "Writes accents."},
}
REWARDS = [{"type": "length", "unit": "characters", "max": 6, "preference_groups": ["often"]}]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("talked")
    data = {"source": {"type": "jsonl", "path": "rows.jsonl"}, "conditioning": PROFILES}
    trained(write_tiny(folder, data=data, rewards=REWARDS), folder / "run", "--set", "train.steps=2")
    return folder / "run"


@pytest.fixture
def conversation(run: Path) -> Conversation:
    (run / FEEDBACK).unlink(missing_ok=True)
    return chat(run, group="often")


def _ask(conversation: Conversation, question: str) -> str:
    reply = conversation.ask(question)
    answer = reply.read()
    conversation.keep(question, reply)
    return answer


def test_the_model_sees_who_asks_and_all_that_was_said(conversation: Conversation) -> None:
    first = _ask(conversation, "One?")
    prompt = conversation.ask("Two?").prompt
    system, *turns = conversation.messages("Two?")
    assert system["role"] == "system" and "Comes daily." in system["content"]
    assert turns == [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "Two?"},
    ]
    assert prompt.index("Comes daily.") < prompt.index("One?") < prompt.index("Two?")


def test_rewards_are_told_the_user(run: Path) -> None:
    append(run / TASTE, Placed(user="zoe", probabilities={"often": 0.9}, nobody=0.1))
    conversation = chat(run, user="zoe")
    _ask(conversation, "One?")
    completion = conversation.last_completion()
    assert (completion.user_id, completion.preference_group) == ("zoe", "often")
    (run / TASTE).unlink()


def test_as_somebody_else_the_conversation_begins_anew(conversation: Conversation) -> None:
    _ask(conversation, "One?")
    conversation.answer_as(group="seldom")
    (system, question) = conversation.messages("Two?")
    assert "once a year" in system["content"] and question["content"] == "Two?"
    conversation.answer_as(profile="Sings.")
    assert "Sings." in conversation.messages("Two?")[0]["content"]


def test_an_unknown_group_is_refused_with_those_that_there_are(run: Path) -> None:
    with pytest.raises(DataError, match=r"no preference group 'oftn'.*'often'"):
        chat(run, group="oftn")
    with pytest.raises(RecipeError, match="all say who asks"):
        chat(run, group="often", user="ana")


def test_another_try_is_drawn_anew_and_the_same_seed_says_the_same(run: Path) -> None:
    one, other = chat(run, group="often"), chat(run, group="often")
    first = _ask(one, "One?")
    assert _ask(other, "One?") == first
    seeds = {one.turns[0][1].seed}
    for _ in range(3):
        with one.retrying() as question:
            _ask(one, question)
        seeds.add(one.turns[0][1].seed)
    assert len(one.turns) == 1
    # Each retry draws another answer, also the second one.
    assert len(seeds) == 4


def test_an_answer_stays_where_no_other_comes(conversation: Conversation) -> None:
    first = _ask(conversation, "One?")
    with pytest.raises(DataError), conversation.retrying() as question:
        assert question == "One?" and conversation.turns == []
        raise DataError("no room", remedy="")
    assert [(asked, reply.text) for asked, reply in conversation.turns] == [("One?", first)]
    assert conversation.messages("Two?")[-2] == {"role": "assistant", "content": first}


def test_opinions_are_kept_with_all_that_was_said_without_the_profile(conversation: Conversation) -> None:
    first = _ask(conversation, "One?")
    second = _ask(conversation, "Two?")
    conversation.rate(1)
    conversation.rate(None, "Better.")
    liked, edited = read_feedback(conversation.run_dir / FEEDBACK).ratings
    assert liked.seed is not None and 0 <= liked.seed < 2**53
    assert (liked.rating, liked.answer, liked.preference_group) == (1, second, "often")
    assert liked.messages == (
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "Two?"},
    )
    assert (edited.rating, edited.edited, edited.step, edited.model) == (None, "Better.", 2, "tuned")


def test_nothing_can_be_rated_before_it_was_said(conversation: Conversation) -> None:
    with pytest.raises(DataError, match="no answer yet"):
        conversation.rate(1)
    with pytest.raises(DataError, match="blank"):
        conversation.ask("  ")


def test_rewards_of_the_last_answer_are_those_of_who_asks(conversation: Conversation) -> None:
    answer = _ask(conversation, "One?")
    trial = AnswerRewards(conversation)()
    assert trial.completion.text == answer
    assert [reward.label for reward in trial.rewards] == ["length"]
    conversation.answer_as(group="seldom")
    _ask(conversation, "One?")
    assert AnswerRewards(conversation)().rewards == ()


def test_a_user_whom_picks_have_placed_is_answered_as_that_group(run: Path) -> None:
    with pytest.raises(DataError, match="no user 'bo'"):
        chat(run, user="bo")
    append(run / TASTE, Placed(user="bo", probabilities={"often": 0.2, "é": 0.7}, nobody=0.1))
    conversation = chat(run, user="bo")
    assert "Writes accents." in conversation.messages("?")[0]["content"]
    assert conversation.persona.label == "bo"
    append(run / TASTE, Placed(user="bo", probabilities={"often": 0.2, "é": 0.2}, nobody=0.6))
    assert chat(run, user="bo").messages("?")[:-1] == []


def test_a_conversation_is_saved_as_json(conversation: Conversation, tmp_path: Path) -> None:
    answer = _ask(conversation, "Öne?")
    conversation.save(tmp_path / "said.json")
    saved = json.loads((tmp_path / "said.json").read_text("utf-8"))
    assert saved["turns"][0]["question"] == "Öne?"
    assert saved["turns"][0]["answer"] == answer
    assert saved["preference_group"] == "often"


def test_an_answer_is_drawn_at_a_low_temperature_unless_another_is_wished(run: Path) -> None:
    conversation = chat(run, group="often")
    assert conversation.speaker.recipe.eval.temperature == 1.0

    def said(wished: float | None) -> list[str]:
        conversation.temperature = wished
        answers = []
        for conversation.seed in range(24):
            answers.append(conversation.ask("One?").read())
        return answers

    usual = said(None)
    assert usual == said(0.6) and usual != said(1.0) and usual != said(0.0)
    # One that evaluates at less talks at less.
    assert EvalSection(temperature=0.3).conversation_temperature == 0.3
