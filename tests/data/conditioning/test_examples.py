"""Earlier rated answers as turns: whose, which, how they are told."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import pytest

from pgrpo_cli.data.conditioning.examples import DISLIKED, LIKED, with_examples
from pgrpo_cli.data.records import PromptRecord
from pgrpo_cli.errors import DataError
from pgrpo_cli.recipe.conditioning import ExamplesConditioning
from tests.support.records import source_record


def rated(
    text: str, up: Any = True, *, user: str | None = "ana", time: float | None = None, answer: Any = ""
) -> PromptRecord:
    return source_record(text, user, f"group of {user}", time, answer=answer or f"answer to {text}", up=up)


def given(
    train: list[PromptRecord], held_out: list[PromptRecord] | None = None, seed: int = 0, **keys: Any
) -> dict[str, list[list[str]]]:
    """The contents of each prompt's messages, by half."""
    section = ExamplesConditioning.model_validate(
        {"type": "examples", "answer_column": "answer", "rating_column": "up", **keys}
    )
    halves, _ = with_examples(section, {"train": train, "eval": held_out or []}, seed)
    return {half: [[m["content"] for m in r.messages] for r in members] for half, members in halves.items()}


def test_a_reaction_begins_the_next_turn_and_the_last_example_is_a_liked_one() -> None:
    rows = [rated("q1", True), rated("q2", False)]
    (asked,) = given(rows, [rated("q3")])["eval"]
    assert asked == ["q2", "answer to q2", f"{DISLIKED}\n\nq1", "answer to q1", "q3"]


@pytest.mark.parametrize(("liked", "disliked"), [("1", "0"), ("True", "False"), ("true", "0.2")])
def test_a_rating_may_be_a_text_as_csv_has_it(liked: str, disliked: str) -> None:
    (asked,) = given([rated("q1", liked), rated("q2", disliked)], [rated("q3")])["eval"]
    assert asked == ["q2", "answer to q2", f"{DISLIKED}\n\nq1", "answer to q1", "q3"]


def test_turns_alternate_and_follow_the_system_message() -> None:
    section = ExamplesConditioning(type="examples", answer_column="answer", rating_column="up", count=2)
    system = {"role": "system", "content": "Be brief."}
    asked = rated("q3")
    asked = PromptRecord("p", (system, *asked.messages), "a", {}, "ana")
    halves, without = with_examples(section, {"train": [rated("q1"), rated("q2", False)], "eval": [asked]}, 0)
    (record,) = halves["eval"]
    assert [m["role"] for m in record.messages] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
    ]
    assert record.messages[0] == system
    # q1's only other row is disliked, so it has no example; q2 has q1.
    assert without == 1


def test_a_prompt_never_sees_its_own_text_or_its_own_answer() -> None:
    rows = [
        rated("Same"),
        rated("same ", answer="another answer"),
        rated("copied", answer="answer to Same"),
        rated("other"),
    ]
    (asked, *_) = given(rows, count=10)["train"]
    assert asked == ["other", "answer to other", "Same"]


def turn(*contents: str, answer: str) -> PromptRecord:
    """A row of a conversation: the user and the assistant in turns, and the answer to the last of them."""
    roles = cycle(("user", "assistant"))
    messages = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]
    row = {"answer": answer, "up": True}
    return PromptRecord(contents[-1], tuple(messages), "group of ana", row, "ana")


def test_no_turn_of_a_conversation_is_an_example_for_another_one() -> None:
    rows = [
        turn("Capital of France?", answer="Paris"),
        turn("Capital of France?", "Paris", "Why?", answer="Because."),
        # It begins with the same words, and is no turn of that conversation.
        turn("Capital of France? And of Spain?", answer="Paris and Madrid"),
    ]
    other = ["Capital of France? And of Spain?", "Paris and Madrid"]
    opening, later, _ = given(rows, count=10)["train"]
    assert opening == [*other, "Capital of France?"]
    assert later == [*other, "Capital of France?", "Paris", "Why?"]


def test_no_question_of_an_example_quotes_the_answer() -> None:
    answer = "Take the train at noon."
    rows = [
        rated("How?", answer=answer),
        rated(f"You said: {answer} When is that?", answer="At twelve."),
        # Short answers stand in other texts by chance.
        rated("Yes or no?", answer="No"),
        rated("Really?", answer="Yes"),
    ]
    how, *_, really = given(rows, count=10)["train"]
    assert set(how[1:-1:2]) == {"No", "Yes"}
    assert set(really[1:-1:2]) == {answer, "At twelve.", "No"}


def test_examples_are_the_users_own_unless_the_group_shares_them() -> None:
    rows = [rated("q1"), rated("q2", user="ben"), rated("q3", user="ben")]
    own = given(rows)["train"]
    assert own[0] == ["q1"]
    assert own[1] == ["q3", "answer to q3", "q2"]
    nobody = [source_record(t, None, "g", answer=f"answer to {t}", up=True) for t in ("q1", "q2")]
    assert given(nobody, by="preference_group")["train"][0] == ["q2", "answer to q2", "q1"]


def test_rows_with_times_see_what_came_before_them_only() -> None:
    rows = [rated("q1", time=1), rated("q2", time=2), rated("q3", time=2), rated("q4", time=9)]
    asked = given(rows, count=10)["train"]
    assert asked[0] == ["q1"]
    # q3 is of the same moment.
    assert asked[1] == ["q1", "answer to q1", "q2"]
    assert asked[3][-1] == "q4" and {asked[3][0], asked[3][2].removeprefix(f"{LIKED}\n\n")} <= {
        "q1",
        "q2",
        "q3",
    }
    # A row of which nobody knows when it was comes before nothing.
    assert given([rated("q0"), rated("q1", time=1)])["train"][1] == ["q1"]


def test_examples_come_from_training_where_the_user_has_any_there() -> None:
    held = [rated("held 1"), rated("held 2"), rated("new 1", user="ben"), rated("new 2", user="ben")]
    asked = given([rated("q1")], held)
    assert asked["eval"][0] == [*asked["eval"][1][:2], "held 1"] == ["q1", "answer to q1", "held 1"]
    # Training never saw ben: his other rows tell of him.
    assert asked["eval"][2] == ["new 2", "answer to new 2", "new 1"]
    assert asked["train"] == [["q1"]]


def test_what_is_held_out_stands_in_no_prompt_of_training() -> None:
    # None of ana's training rows says what she liked.
    asked = given([rated("q1", None), rated("q2", None), rated("other", user="ben")], [rated("held")])
    assert asked["train"][:2] == [["q1"], ["q2"]]
    assert asked["eval"] == [["held"]]


@pytest.mark.parametrize(
    ("count", "liked", "disliked"), [(1, 1, 0), (2, 1, 1), (3, 2, 1), (4, 2, 2), (5, 3, 2), (9, 4, 5)]
)
def test_about_half_of_them_are_disliked(count: int, liked: int, disliked: int) -> None:
    rows = [rated(f"good {i}") for i in range(4)] + [rated(f"bad {i}", False) for i in range(9)]
    (asked,) = given(rows, [rated("q")], count=count)["eval"]
    told = [text.rpartition("\n\n")[2] for text in asked[:-1:2]]
    assert sum(text.startswith("good") for text in told) == liked
    assert sum(text.startswith("bad") for text in told) == disliked
    assert told[-1].startswith("good")


def test_without_a_liked_answer_there_are_no_examples() -> None:
    assert given([rated("q1", False), rated("q2", False)])["train"] == [["q1"], ["q2"]]


def test_a_scale_has_a_middle_that_says_nothing() -> None:
    rows = [rated("q1", 5), rated("q2", 3), rated("q3", "1")]
    (asked,) = given(rows, [rated("q", 3)], rating_min=1, rating_max=5, count=5)["eval"]
    assert asked == ["q3", "answer to q3", f"{DISLIKED}\n\nq1", "answer to q1", "q"]
    # Without a rating column every answer was liked.
    every = given(rows, [rated("q")], rating_column=None, count=5)["eval"][0]
    assert len(every) == 7 and DISLIKED not in " ".join(every)


def test_the_draw_is_the_seeds_and_differs_between_prompts() -> None:
    rows = [rated(f"q{i}") for i in range(30)]
    first = given(rows)
    assert first == given(rows) == given(list(reversed(rows))) | {"train": first["train"]}
    assert first != given(rows, seed=1)
    assert len({tuple(asked[:2]) for asked in first["train"]}) > 10


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"answer_column": "anser"}, "data.conditioning.answer_column names the column 'anser'.*'answer'"),
        ({"rating_column": "thumb"}, "data.conditioning.rating_column names the column 'thumb'"),
        ({"rating_max": 0.5}, "column 'up' is True, no rating from 0 to 0.5"),
    ],
)
def test_a_column_that_is_not_there_or_no_rating_is_an_error(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        given([rated("q1")], **keys)


def test_nobody_and_nothing_rated_are_errors() -> None:
    with pytest.raises(DataError, match="goes by users, and no row says whose it is"):
        given([rated("q1", user=None)])
    with pytest.raises(DataError, match="no row has a rated answer in column 'answer'"):
        given([rated("q1", None)])
