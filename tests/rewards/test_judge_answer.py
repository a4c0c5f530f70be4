"""Which answers of a judge are a score, and which are none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.rewards.judge_answer import Unusable, instruction, parse_score, reminder

SCORES = {
    '{"score": 7}': 7,
    '{"score": 7.5, "reason": "brisk"}': 7.5,
    '{"reason": "a {strange} one", "Score": 1}': 1,
    '{"score": "7"}': 7,
    '```json\n{"score": 10}\n```': 10,
    'Here it is: {"score": 2}. I hope that it helps.': 2,
    '{"score": 3} which is {"score": 3.0}': 3,
    '<think>A score: 3? {"score": 4}? No.</think>\n{"score": 9}': 9,
    "7": 7,
    " 7. ": 7,
    "+7.25": 7.25,
    "7/10": 7,
    "7 out of 10": 7,
    "Score: 7": 7,
    "Score: 7/10": 7,
    "**Score:** 7": 7,
    "The score is 8 out of 10, for its brevity.": 8,
    "score = 8, as I said: Score: 8.0.": 8,
}
NONSENSE = {
    "": "empty",
    " \n ": "empty",
    "<think>7</think>": "empty",
    "A fine answer.": "no score",
    "There are 7 reasons.": "no score",
    '{"score": 7': "no score",  # cut off: it may have been about to be 7.5
    '{"scores": [7]}': "no score",
    '[{"verdict": 7}]': "no score",
    "Score: 7-8": "no score",
    "Score: 70%": "no score",
    '{"score": true}': "true, which is no number",
    '{"score": null}': "null, which is no number",
    '{"score": "high"}': "which is no number",
    '{"score": [7]}': "which is no number",
    '{"score": NaN}': "NaN, which is no number",
    '{"score": 1e999}': "Infinity, which is no number",
    '{"score": ' + "9" * 400 + "}": "which is no number",
    '{"score": 3} or {"score": 8}': "the scores 3, 8",
    "Score: 3. On second thoughts, score: 8.": "the scores 3, 8",
    '{"score": 0}': "0 is not on the scale from 1 to 10",
    '{"score": 10.5}': "10.5 is not on the scale",
    "-7": "-7 is not on the scale",
    "70/100": "out of 100, and the scale ends at 10",
    "Score: 4/5": "out of 5, and the scale ends at 10",
    '{"a":' * 5000: "no score",
    "{" * 100_000: "no score",
}


@pytest.mark.parametrize(("answer", "score"), SCORES.items())
def test_a_score_is_found(answer: str, score: float) -> None:
    assert parse_score(answer, 1, 10) == score


@pytest.mark.parametrize(("answer", "why"), NONSENSE.items(), ids=range(len(NONSENSE)))
def test_nonsense_is_no_score(answer: str, why: str) -> None:
    with pytest.raises(Unusable, match=why):
        parse_score(answer, 1, 10)


def test_the_ends_of_the_scale_are_on_it() -> None:
    assert [parse_score(text, -1, 1) for text in ("-1", "1", "0", '{"score": -0.5}')] == [-1, 1, 0, -0.5]


@given(st.text(), st.floats(-5, 0), st.floats(1, 5))
def test_whatever_it_says_a_score_is_on_the_scale_or_none(answer: str, low: float, high: float) -> None:
    try:
        assert low <= parse_score(answer, low, high) <= high
    except Unusable as none:
        assert str(none)


@given(st.floats(1, 10), st.text(alphabet=st.characters(exclude_characters="{}0123456789")))
def test_json_is_found_in_any_text_without_numbers(score: float, text: str) -> None:
    assert parse_score(f'{text}{{"score": {score!r}}}{text}', 1, 10) == score


def test_the_judge_is_told_the_form_and_the_scale() -> None:
    assert '{"score": n}, where n is a number from 0 (worst) to 2.5 (best)' in instruction(0, 2.5)
    assert "cannot be used: it is empty. Answer again" in reminder(0, 2.5, "it is empty")
    assert "from 0 to 2.5" in reminder(0, 2.5, "it is empty")
