"""Majority capture: how far answers have followed those to another preference group, and when it is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.diagnosis.capture import find_captured, followed, words_of
from pgrpo_cli.diagnosis.rules import diagnose
from pgrpo_cli.diagnosis.view import Completions, Metrics, RunView, TrainingPrompts
from pgrpo_cli.recipe.schema import Recipe
from tests.support.recipes import changed

STEPS = 30


def test_how_far_by_hand() -> None:
    """Answers to the first preference group had the word a and now have b as well: the direction is b alone,
    and they have moved by 1 along it. Half of the others' prompts now have b: by 0.5. The variance of (1, 1,
    0, 0) is 1/3, so the error of the mean of four is √(1/12).
    """
    found = followed(
        [{"a": 1.0}] * 4,
        [{"a": 1.0, "b": 1.0}] * 4,
        [{"c": 1.0}] * 4,
        [{"c": 1.0, "b": 1.0}] * 2 + [{"c": 1.0}] * 2,
    )
    assert found.share == pytest.approx(0.5)
    assert found.error == pytest.approx((1 / 12) ** 0.5)
    # A single letter tells a reader nothing.
    assert found.words == ()


def test_a_word_in_half_of_the_completions_counts_half() -> None:
    """The direction is the word with 0.5; our prompts have moved by 0.5 * 0.5, the others' by 0.5 * 1."""
    found = followed([{}] * 4, [{"meal": 0.5}] * 4, [{}] * 4, [{"meal": 1.0}] * 4)
    assert found.share == pytest.approx(2.0)
    assert found.words == ("meal",)


def test_words_by_chance_are_no_change() -> None:
    """Every prompt has a word of its own: the halves share none, so nothing has moved."""
    first, now = ([{f"{side}{p}": 1.0} for p in range(8)] for side in ("first", "now"))
    assert followed(first, now, first, now).share is None


def test_the_words_of_a_prompt_are_counted_by_completion() -> None:
    """However often a word stands in one."""
    assert words_of(["Yes, yes, Sir", "yes!"]) == {"Yes": 0.5, "yes": 1.0, ",": 0.5, "Sir": 0.5, "!": 0.5}


words = st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from([0.25, 0.5, 1.0]), max_size=5)
prompts = st.lists(words, min_size=4, max_size=8)


@given(first=prompts, now=prompts, others_first=prompts, others_now=prompts)
def test_properties(first: Any, now: Any, others_first: Any, others_now: Any) -> None:
    """Who has not changed has not followed; the way back is the way with the other sign; words have no
    names; and words that answers to the first preference group never have do not matter.
    """
    found = followed(first, now, others_first, others_now)
    assert found == followed(first, now, [dict(w) for w in others_first], others_now)
    if found.share is None:
        return
    assert followed(first, now, others_now, others_now).share == pytest.approx(0.0, abs=1e-9)
    back = followed(first, now, others_now, others_first)
    assert back.share == pytest.approx(-found.share)
    renamed = followed(*([{f"x{w}": s for w, s in p.items()} for p in ps] for ps in
                         (first, now, others_first, others_now)))  # fmt: skip
    assert renamed.share == pytest.approx(found.share)
    more = [{**p, "never": 1.0} for p in others_now]
    assert followed(first, now, others_first, more).share == pytest.approx(found.share)


Row = tuple[float, str]
"""A completion's reward and text."""


def view(answer: Callable[[str, float, int], Row], steps: int = STEPS, **recipe: Any) -> RunView:
    """A run with a prompt a step of `many` and of two others, with two completions each. `answer`: by
    preference group, 0 in the first ten steps and 1 in the last ten, and a number.
    """
    rows = [
        (step, p, name, *answer(name, 0.0 if step <= 10 else 1.0, 2 * step + g))
        for step in range(1, steps + 1)
        for p, name in enumerate(("many", "other", "rare"))
        for g in range(2)
    ]

    def columns(rows: list[Any]) -> Completions:
        return Completions.of(
            steps=[row[0] for row in rows],
            prompts=[row[1] for row in rows],
            preference_groups=[row[2] for row in rows],
            rewards=[row[3] for row in rows],
            parts=[{} for _ in rows],
            lengths=[9] * len(rows),
            texts=[row[4] for row in rows],
        )

    return RunView(
        Recipe.model_validate(changed(**{"rewards": [{"type": "keyword", "keywords": ["x"]}], **recipe})),
        Metrics(tuple({"step": step} for step in range(1, steps + 1))),
        columns(rows),
        {},
        TrainingPrompts({}),
        first_completions=columns([row for row in rows if row[0] <= 10]),
    )


def captured(name: str, late: float, number: int) -> Row:
    """The majority's success rises from 1 in 4 to 3 in 4, by the word `meal`; the others get it as well, and
    succeed in 1 of 8 answers at first and never at last.
    """
    text = f"{name} {number} a meal" if late and number % 8 else f"{name} {number} a walk"
    if name == "many":
        return float(number % 4 != 0 if late else number % 4 == 0), text
    return float(not late and number % 8 == 0), text


def test_what_is_said() -> None:
    (finding,) = find_captured(view(captured))
    assert (finding.rule, finding.preference_group, finding.severity) == (
        "majority-capture",
        "many",
        "warning",
    )
    # Ten prompts of two: in steps 1 to 10 the numbers 2 to 21, of which 5 are divisible by 4 and 2 by 8; in
    # steps 21 to 30 those from 42 to 61, of which 5 are divisible by 4.
    assert finding.says == (
        "Answers to 2 preference groups ('other', 'rare') have become those to 'many': since the first 10 "
        "steps their words have changed at least 100 % as far in the same direction, for instance by more of "
        "'meal'. The reward of 'many' has risen from 0.25 to 0.75, theirs have not (0.1 to 0 on average)."
    )
    assert finding.numbers["preference_groups"] == 2
    # A quarter of the rate of 1e-4, four times 200 steps or 8 prompts.
    assert finding.remedy.startswith(
        "In a new run set train.sampler=balanced, and train.learning_rate=2.5e-05 with train.steps=800, or "
        "train.prompts_per_step=32:"
    )
    assert "loss.beta=0.04 " in finding.remedy


def test_of_one_preference_group() -> None:
    def one(name: str, late: float, number: int) -> Row:
        # What the other one earns does not fall, but rises as that of the majority.
        return captured("many" if name == "other" else name, late, number)[0], captured(name, late, number)[1]

    (finding,) = find_captured(view(one))
    assert finding.says.startswith("Answers to preference group 'rare' have become those to 'many': since")
    assert finding.says.endswith(", its own has not (0.1 to 0).")


def test_the_remedy_is_what_the_recipe_does_not_have() -> None:
    balanced = view(captured, train__sampler="balanced", loss__beta=0.05)
    (finding,) = find_captured(balanced)
    assert (
        finding.remedy.startswith("In a new run set train.learning_rate=") and "beta=0.1 " in finding.remedy
    )


def own_words(name: str, late: float, number: int) -> Row:
    """The others' answers do not change."""
    reward, text = captured(name, late, number)
    return reward, text if name == "many" else text.replace("meal", "walk")


def all_gain(name: str, late: float, number: int) -> Row:
    return captured("many", late, number)[0], captured(name, late, number)[1]


def nobody_gains(name: str, late: float, number: int) -> Row:
    return captured("other", late, number)[0], captured(name, late, number)[1]


def others_at_the_top(name: str, late: float, number: int) -> Row:
    """A keyword is worth 0 to 1."""
    reward, text = captured(name, late, number)
    return reward if name == "many" else 1.0, text


@pytest.mark.parametrize("answer", [own_words, all_gain, nobody_gains, others_at_the_top])
def test_what_is_no_capture(answer: Callable[[str, float, int], Row]) -> None:
    run = view(answer)
    assert list(find_captured(run)) == []
    assert "Do preference groups keep answers of their own?" in diagnose(run).answered


def half_as_far(name: str, late: float, number: int) -> Row:
    """Every other answer to the others is as before: less than 0.75 of the way."""
    reward, text = captured(name, late, number)
    return reward, text if name == "many" or number % 2 else text.replace("meal", "walk")


def test_half_of_the_way_is_no_capture() -> None:
    assert list(find_captured(view(half_as_far))) == []


def test_what_is_lacking() -> None:
    why = diagnose(view(captured, steps=19)).unanswered["Do preference groups keep answers of their own?"]
    assert why == "20 steps are needed to compare the first with the last ones"

    def alone(name: str, late: float, number: int) -> Row:
        reward, text = captured(name, late, number)
        return reward if name == "many" else float("nan"), text

    why = diagnose(view(alone)).unanswered["Do preference groups keep answers of their own?"]
    assert why.startswith("fewer than two preference groups have 4 prompts in both")
    assert list(find_captured(view(alone))) == []


def test_few_prompts_are_no_proof() -> None:
    """The others have three prompts in the last steps: 28, 29 and 30 have the numbers from 56 on."""

    def few(name: str, late: float, number: int) -> Row:
        reward, text = captured(name, late, number)
        rewarded = name == "many" or not late or number >= 2 * (STEPS - 2)
        return reward if rewarded else float("nan"), text

    assert list(find_captured(view(few))) == []


def test_it_is_found_where_each_asks_for_something_else() -> None:
    """The first preference group's words come beside words of each one's own, which differ."""

    def topics(name: str, late: float, number: int) -> Row:
        reward, text = captured(name, late, number)
        return reward, f"{text} about {name} with {'red' if name == 'rare' else 'blue'} {name}s"

    (finding,) = find_captured(view(topics))
    assert finding.numbers["preference_groups"] == 2
