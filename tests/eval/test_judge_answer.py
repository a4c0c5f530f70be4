"""Which answers of a judge say which of two answers is better, and which do not."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.eval.judge import parse_preference, preference_form
from pgrpo_cli.rewards.judge.answer import Unusable

SAID = {
    '{"better": 1}': 1.0,
    '{"better": 2, "reason": "1 is long"}': 0.0,
    '{"Better": "TIE"}': 0.5,
    '```json\n{"better": "2"}\n```': 0.0,
    'I say {"better": 1}, yes: {"better": "1"}': 1.0,
    '<think>Better: 2?</think>{"better": 1}': 1.0,
    "1": 1.0,
    "**1**": 1.0,
    "`2`.": 0.0,
    " 2. ": 0.0,
    "Tie": 0.5,
    "**Better:** 2": 0.0,
    "Better: 1. It is brief.": 1.0,
}
NOT_SAID = {
    "": "empty",
    "<think>1</think>": "empty",
    "Both are fine.": "does not say",
    "Answer 1 is better": "does not say",
    '{"better": 1': "does not say",
    "12": "does not say",
    "1/2": "does not say",
    "Better: 1 or 2": "may mean another thing",
    "Better: 1.5": "may mean another thing",
    "Better: 12": "may mean another thing",
    "Better: 1 is too long; 2 wins": "may mean another thing",
    "Which is better: 1? No. Answer 2": "may mean another thing",
    '{"better": 0}': '"better" is 0, which is none of',
    '{"better": 3}': "is 3, which",
    '{"better": 1.5}': "is 1.5, which",
    '{"better": true}': "is true, which",
    '{"better": null}': "is nothing (null), which",
    '{"better": [1]}': "is a list, which",
    '{"better": 1} or {"better": 2}': "different things",
    "Better: 1. On second thoughts, better: tie.": "different things",
}


@pytest.mark.parametrize(("answer", "share"), SAID.items())
def test_a_preference_is_found(answer: str, share: float) -> None:
    assert parse_preference(answer) == share


@pytest.mark.parametrize(("answer", "why"), NOT_SAID.items())
def test_nothing_is_guessed(answer: str, why: str) -> None:
    with pytest.raises(Unusable) as caught:
        parse_preference(answer)
    assert why in str(caught.value)


@given(st.text(alphabet='{}":, 12tiebr.\n'))
def test_whatever_is_said_is_a_preference_or_none(answer: str) -> None:
    with suppress(Unusable):
        assert parse_preference(answer) in (0.0, 0.5, 1.0)


def test_the_judge_is_told_the_form_before_and_after() -> None:
    form = preference_form()
    for told in (form.instruction, form.reminder("it is empty")):
        assert '{"better": 1} if the first answer is better' in told
    assert "cannot be used: it is empty" in form.reminder("it is empty")
