"""A taste test: what is shown, what is recorded, and what the picks say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from pgrpo_cli.conversation.placing import NOBODY, Placing
from pgrpo_cli.conversation.questions import Question
from pgrpo_cli.conversation.tasting import INSTRUCTIONS, Contestant, Shown, Tasting
from pgrpo_cli.data.conditioning.presets import Preset
from pgrpo_cli.errors import DataError
from pgrpo_cli.feedback.file import read_feedback
from pgrpo_cli.rewards.base import Completion, Score
from pgrpo_cli.rewards.reward_sum import RewardSum, Term


@dataclass(frozen=True)
class _Says:
    """A speaker whose answer is a function of the question and the seed: to count picks needs no model."""

    answer: Callable[[str, int], str]
    step: int = 6

    def ask(self, messages: Any, *, which: str, seed: int, stop: Event) -> Any:
        text = self.answer(messages[-1]["content"], seed)
        return type("Reply", (), {"read": lambda self: text})()

    def answers(self, conversations: Any, *, which: str, seeds: Any, stop: Event) -> list[str]:
        asked = zip(conversations, seeds, strict=True)
        return [self.answer(": ".join(m["content"] for m in messages), seed) for messages, seed in asked]


def _contestant(name: str, answer: Callable[[str, int], str]) -> Contestant:
    which = "base" if name == "base" else "tuned"
    return Contestant(name, _Says(answer), which, Preset(None, (), "nobody"))  # type: ignore[arg-type]


BASE = _contestant("base", lambda question, seed: f"base answer to {question}")
TUNED = _contestant("tuned", lambda question, seed: f"tuned answer to {question}")


def _questions(count: int = 100) -> Iterator[Question]:
    return iter([Question(f"q{i}", f"question {i}") for i in range(count)])


def _tasting(path: Path, **options: Any) -> Tasting:
    given: dict[str, Any] = {"candidates": [], "versus": (BASE, TUNED), "questions": _questions()} | options
    return Tasting(path=path / "taste.jsonl", user="ana", run="a run", **given)


def _prefers(pair: Shown, name: str) -> str:
    return "1" if pair.contestants[0].name == name else "2"


def test_whose_answer_stands_first_is_drawn(tmp_path: Path) -> None:
    tasting = _tasting(tmp_path)
    pairs = [tasting.next_pair() for _ in range(100)]
    first = [pair.contestants[0].name for pair in pairs if pair]
    # Of 100 fair draws fewer than 30 or more than 70 come up once in 25,000 times.
    assert 30 < first.count("base") < 70
    assert all(pair and pair.answers[0].startswith(pair.contestants[0].name) for pair in pairs)


def test_wins_are_those_of_the_second_contestant_wherever_it_stood(tmp_path: Path) -> None:
    tasting = _tasting(tmp_path)
    for likes in ("tuned", "tuned", "tuned", "base", "="):
        pair = tasting.next_pair()
        assert pair is not None
        tasting.pick(pair, "=" if likes == "=" else _prefers(pair, likes))
    result = tasting.result()
    assert (result.wins, result.losses, result.ties, result.names) == (3, 1, 1, ("base", "tuned"))
    # (3 + ½) / 5
    assert result.win_rate.mean == pytest.approx(0.7)
    assert result.win_rate.low < 0.7 < result.win_rate.high


def test_every_pick_is_on_the_disk_before_the_next_pair(tmp_path: Path) -> None:
    tasting = _tasting(tmp_path)
    pair = tasting.next_pair()
    assert pair is not None
    tasting.pick(pair, "2")
    (pick,) = read_feedback(tmp_path / "taste.jsonl").picks
    assert (pick.user, pick.pick, pick.answers, pick.prompt_id) == ("ana", "2", pair.answers, "q0")
    assert pick.models == tuple(contestant.name for contestant in pair.contestants)
    assert pick.steps == tuple({"base": 0, "tuned": 6}[name or ""] for name in pick.models)
    assert pick.messages == ({"role": "user", "content": "question 0"},)
    assert all(seed is not None and 0 <= seed < 2**53 for seed in pick.seeds)


def test_an_undone_pick_is_shown_again_and_counts_no_more(tmp_path: Path) -> None:
    tasting = _tasting(tmp_path)
    pair = tasting.next_pair()
    assert pair is not None
    tasting.pick(pair, "1")
    assert tasting.undo() == pair
    tasting.pick(pair, "=")
    assert tasting.undo() == pair
    assert tasting.undo() is None
    assert read_feedback(tmp_path / "taste.jsonl").picks == ()
    assert tasting.result().ties == 0
    with pytest.raises(IndexError):
        # Nor does the choice of the next pair remember it.
        tasting.asked.take_back()


def test_undo_goes_back_behind_a_tie_that_nobody_was_shown(tmp_path: Path) -> None:
    tasting = _tasting(tmp_path)
    pair = tasting.next_pair()
    assert pair is not None
    tasting.pick(pair, "1")
    # What `next_pair` records between two models that give the same answer.
    tasting.pick(replace(pair, answers=("Yes.", "Yes. ")), "=")
    assert tasting.undo() == pair
    # It stays: nobody has taken it back.
    (tie,) = read_feedback(tmp_path / "taste.jsonl").picks
    assert (tie.pick, tasting.picked) == ("=", 1)
    assert tasting.undo() is None
    tasting.pick(pair, "2")
    assert tasting.undo() == pair and tasting.picked == 1
    assert tasting.picked == 1


def test_a_skipped_pair_leaves_no_record(tmp_path: Path) -> None:
    tasting = _tasting(tmp_path)
    pair = tasting.next_pair()
    assert pair is not None
    tasting.pick(pair, "s")
    assert not (tmp_path / "taste.jsonl").exists()
    assert tasting.result().skipped == 1


def test_two_models_that_say_the_same_are_a_tie_without_asking(tmp_path: Path) -> None:
    alike = _contestant("tuned", lambda question, seed: f"base answer to {question} ")
    tasting = _tasting(tmp_path, versus=(BASE, alike), questions=_questions(3))
    assert tasting.next_pair() is None
    assert tasting.result().ties == 3
    assert tasting.result().win_rate.mean == 0.5


@pytest.mark.parametrize("between", [True, False], ids=["two models", "samples"])
def test_after_ten_questions_without_a_choice_no_more_are_asked(tmp_path: Path, between: bool) -> None:
    # Question 3 has a choice; of those after it ten are asked.
    def answer(question: str, seed: int) -> str:
        return f"{seed}" if question.startswith("question 3") else "Yes."

    model, yes = _contestant("tuned", answer), _contestant("base", lambda question, seed: "Yes.")
    given: dict[str, Any] = {"versus": (yes, model)} if between else {"versus": None, "candidates": [model]}
    questions = _questions()
    tasting = _tasting(tmp_path, questions=questions, **given)
    pair = tasting.next_pair()
    assert pair is not None and pair.question.prompt_id == "q3" and tasting.no_choice is None
    assert tasting.next_pair() is None
    assert tasting.no_choice is not None and "for 10 questions in a row, so no more" in tasting.no_choice
    assert next(questions).prompt_id == "q14"
    assert tasting.result().ties == (13 if between else 0)


@pytest.mark.parametrize("between", [True, False], ids=["two models", "samples"])
def test_a_stop_ends_the_questions_and_records_nothing(tmp_path: Path, between: bool) -> None:
    stop, asked = Event(), []

    def answer(question: str, seed: int) -> str:
        stop.set()
        asked.append(question)
        # Cut short, so that it equals the other one.
        return ""

    model = _contestant("base", answer)
    given: dict[str, Any] = {"versus": (model, model)} if between else {"versus": None, "candidates": [model]}
    tasting = _tasting(tmp_path, **given)
    assert tasting.next_pair(stop) is None
    assert all("question 0" in question for question in asked)
    assert tasting.picked == 0 and tasting.no_choice is None


def test_samples_that_are_the_same_are_passed_over(tmp_path: Path) -> None:
    model = _contestant(
        "base", lambda question, seed: "same" if question.startswith("question 0") else f"{seed}"
    )
    tasting = _tasting(tmp_path, versus=None, candidates=[model])
    pair = tasting.next_pair()
    assert pair is not None and pair.question.prompt_id == "q1"
    assert pair.seeds[0] != pair.seeds[1]
    assert not (tmp_path / "taste.jsonl").exists()


def test_an_answer_without_a_word_is_not_shown(tmp_path: Path) -> None:
    def answer(question: str, seed: int) -> str:
        return "..." if question.startswith("question 0") else ("", f"{seed}")[seed % 2]

    tasting = _tasting(tmp_path, versus=None, candidates=[_contestant("base", answer)])
    pairs = [pair for pair in (tasting.next_pair() for _ in range(20)) if pair]
    assert len(pairs) == 20 and pairs[0].question.prompt_id != "q0"
    assert all(answer.isdigit() for pair in pairs for answer in pair.answers)


def test_some_answers_follow_an_instruction_that_only_the_record_tells(tmp_path: Path) -> None:
    model = _contestant("base", lambda question, seed: f"{question} {seed}")
    tasting = _tasting(tmp_path, versus=None, candidates=[model])
    for _ in range(60):
        pair = tasting.next_pair()
        assert pair is not None
        for answer, instruction in zip(pair.answers, pair.instructions, strict=True):
            asked = answer.rpartition(" ")[0]
            assert asked == " ".join(filter(None, [pair.question.text, instruction]))
        tasting.pick(pair, "1")
    picks = read_feedback(tmp_path / "taste.jsonl").picks
    assert {pick.messages[-1]["content"] for pick in picks} == {f"question {i}" for i in range(60)}
    added = {instruction for pick in picks for instruction in pick.instructions}
    # Which are shown depends on how the answers differ.
    assert None in added and len(added) > len(INSTRUCTIONS) / 2
    assert added <= {None, *INSTRUCTIONS}


def test_answers_for_preference_groups_follow_no_instruction(tmp_path: Path) -> None:
    candidates = [_contestant(group, lambda question, seed: f"{question} {seed}") for group in GROUPS]
    pair = _tasting(tmp_path, versus=None, candidates=candidates).next_pair()
    assert pair is not None and pair.instructions == (None, None)


def test_the_same_seed_shows_the_same_pairs(tmp_path: Path) -> None:
    def shown(seed: int) -> list[tuple[str, str]]:
        model = _contestant("base", lambda question, seed: f"{question} {seed}")
        tasting = _tasting(tmp_path, versus=None, candidates=[model], seed=seed)
        return [pair.answers for pair in (tasting.next_pair() for _ in range(5)) if pair]

    assert shown(1) == shown(1) != shown(2)


def test_a_question_is_asked_and_recorded_within_its_own_turns(tmp_path: Path) -> None:
    turns = ({"role": "user", "content": "Tea?"}, {"role": "assistant", "content": "Yes."})
    system, other = {"role": "system", "content": "Be kind."}, {"role": "user", "content": "Rain?"}
    by = replace(BASE, preset=Preset("often", (system, other), "prompt p"))
    asked = {"role": "user", "content": "Why?"}
    assert by.asked(Question("q", "Why?", {}, turns)) == [system, *turns, asked]
    assert by.asked(Question("q", "Why?", {}, ())) == [system, asked]
    # Of a question that is typed nothing is known.
    assert by.asked(Question("typed", "Why?")) == [system, other, asked]
    tasting = _tasting(tmp_path, questions=iter([Question("q", "Why?", {}, turns)]), before=(system, other))
    pair = tasting.next_pair()
    assert pair is not None
    tasting.pick(pair, "1")
    (pick,) = read_feedback(tmp_path / "taste.jsonl").picks
    assert pick.messages == (system, *turns, asked)
    assert tasting.next_pair() is None and tasting.no_choice == "There are no questions left."


@pytest.mark.parametrize("versus", [(BASE, TUNED), None])
def test_questions_that_are_too_long_are_passed_over_with_a_note(tmp_path: Path, versus: Any) -> None:
    def answer(question: str, seed: int) -> str:
        if not question.endswith("question 12"):
            raise DataError("the conversation has 9999 tokens", remedy="")
        return f"answer {seed}"

    both = (_contestant("base", answer), _contestant("tuned", lambda *asked: f"{answer(*asked)}!"))
    told: list[str] = []
    options = {"versus": both if versus else None, "candidates": both, "on_note": told.append}
    pair = _tasting(tmp_path, **options).next_pair()
    assert pair is not None and pair.question.prompt_id == "q12"
    assert len(told) == 12 and told[3] == (
        "note: question 'q3' is passed over: the conversation has 9999 tokens"
    )


class _Likes:
    """The reward of a group that likes answers that begin with the group's name."""

    parts, value_range = ("value",), (0.0, 1.0)

    def __call__(self, completions: Any) -> list[Score]:
        return [Score(v, {"value": v}) for v in map(self._value, completions)]

    @staticmethod
    def _value(completion: Completion) -> float:
        return float(completion.text.startswith(completion.preference_group))


GROUPS = ("a", "b", "c", "d")


def test_picks_place_a_person_and_the_pair_that_is_shown_tells_something(tmp_path: Path) -> None:
    placing = Placing(RewardSum((Term("likes", 1.0, None, _Likes()),)), GROUPS)
    model = _Says(lambda question, seed: f"{question.partition(':')[0]} says {seed}")
    candidates = [
        Contestant(
            f"tuned@{group}",
            model,  # type: ignore[arg-type]
            "tuned",
            Preset(group, ({"role": "system", "content": group},), group),
        )
        for group in GROUPS
    ]
    tasting = _tasting(tmp_path, versus=None, candidates=candidates, placing=placing)
    assert set(placing.probabilities()) == {*GROUPS, NOBODY}
    for _ in range(8):
        pair = tasting.next_pair()
        assert pair is not None
        liked = [answer.startswith("c") for answer in pair.answers]
        tasting.pick(pair, "=" if liked[0] == liked[1] else "1" if liked[0] else "2")
    assert placing.likely() == "c"
    # Once c is likely, a pair without its answer would tell little.
    pair = tasting.next_pair()
    assert pair is not None and any(answer.startswith("c") for answer in pair.answers)
    # A kill may come at any time, and the next command answers this user by what the file says.
    placed = read_feedback(tmp_path / "taste.jsonl").placed
    assert len(placed) == 8 and placed[-1].group == "c" and placed[-1].user == "ana"
    before = placing.probabilities()
    tasting.undo()
    found = read_feedback(tmp_path / "taste.jsonl")
    assert len(found.picks) == 7
    after = placing.probabilities()
    assert after != before
    assert {**found.placed[-1].probabilities, NOBODY: found.placed[-1].nobody} == after
