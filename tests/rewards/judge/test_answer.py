"""Which answers of a judge are a score, and which are none."""

import contextlib
import json
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgrpo_cli.eval.judge import parse_preference
from pgrpo_cli.rewards.judge.answer import Unusable, instruction, parse_score, reminder

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
    '{"score": "7/10"}': 7,
    '{"score": "7 out of 10"}': 7,
    "7/10": 7,
    "**7**": 7,
    "`7`": 7,
    "**7**.": 7,
    "**7/10**": 7,
    "**7**/10": 7,
    "```\n7\n```": 7,
    "7 out of 10": 7,
    "Score: 7": 7,
    "Score: 7/10": 7,
    "**Score:** 7": 7,
    "The score is 8 out of 10, for its brevity.": 8,
    "score = 8, as I said: Score: 8.0.": 8,
    "{score: 7, reason: brisk}": 7,
    "**Score: 7** (brisk)\nIt has 2 parts.": 7,
    "**Score: 7**/10 - brisk": 7,
    "Score: 7 (out of 10). It names 3 out of 4 reasons.": 7,
    "At first I thought 3/10. Score: 7": 7,
    "I would rate this answer 7 out of 10.": 7,
    "It's brisk, so **7.5/10** for me.": 7.5,
    "A few words are wasted. I give it 8 / 10 for this answer!": 8,
    "It earns 8/10 in my opinion. I liked it.": 8,
    "It's 8/10 in total, as it is brisk.": 8,
    "I rate it 8/10 with a smile": 8,
    "My verdict: **8/10**": 8,
    "Brisk.\nResult: 8/10": 8,
    "It has two parts: the first is fine.\nMark: 8/10\nIn short, it is brisk.": 8,
    "3/4 of it is to the point. 6/10": 6,
}
NONSENSE = {
    "": "empty",
    " \n ": "empty",
    "<think>7</think>": "empty",
    '<think>I think {"score": 2} and then': "empty",
    '<think>Hm.</think>\n<thinking>I think {"score": 2}': "empty",
    "<think>" + "x" * 30_000 + ' {"score": 2}': "empty",
    "A fine answer.": "no score",
    "There are 7 reasons.": "no score",
    '{"score": 7': "no score",  # cut off: it may have been about to be 7.5
    '{"scores": [7]}': "no score",
    '[{"verdict": 7}]': "no score",
    "Score: 7-8": "may mean another thing",
    "Score: 70%": "may mean another thing",
    "Score: 7,5": "may mean another thing",
    "{score: 7,5}": "may mean another thing",
    "**Score:** 7,5 / 10": "may mean another thing",
    "Score: 4 (out of 5)": "out of 5",
    "**4**/5": "out of 5",
    "**4/5**": "out of 5",
    "**7** **8**": "no score",
    '{"score": "4/5"}': "out of 5, and the scale ends at 10",
    '{"score": "7-8"}': "which is no number",
    "4 (out of 5)": "out of 5",
    "Score: **4**/5": "out of 5",
    "Score: 4 stars out of 5": "may mean another thing",
    "Score: 4 (4/5)": "may mean another thing",
    "Score: 3 (scale 1-5)": "may mean another thing",
    "Score: 7 or 8": "may mean another thing",
    "Score: 7 to 8": "may mean another thing",
    "Score: 7 — 8": "may mean another thing",
    "Score: 7~8": "may mean another thing",
    "Score: 7\u20118": "may mean another thing",
    "Score: 5 ± 1": "may mean another thing",
    "Score: 7½": "may mean another thing",
    "Score is 1 point below perfect, so 9": "may mean another thing",
    "The score is 7. On second thought, too generous: 3/10": "the scores 7, 3",
    '{"score": true}': "true, which is no number",
    '{"score": null}': "nothing (null), which is no number",
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
    "It is not a 10/10.": "'10/10' may mean another thing",
    "I can't give it 10/10.": "may mean another thing",
    "Is this 7/10?": "no score",
    "Is it 7/10 for you?": "may mean another thing",
    "Somewhere between 7 and 8 out of 10.": "may mean another thing",
    "7/10 for style. 3/10 for the rest.": "may mean another thing",
    "It scores 10/10 for tone. Overall poor.": "may mean another thing",
    "It gets 10/10 (for its tone). Overall poor.": "may mean another thing",
    "It gets 10/10 in style, but it is poor.": "may mean another thing",
    "It gets 10/10 for the answer's tone.": "may mean another thing",
    "It gets 10/10 as far as tone goes. Overall poor.": "may mean another thing",
    "It gets 10/10 with regard to tone. Overall poor.": "may mean another thing",
    "For tone it gets 10/10. Overall poor.": "may mean another thing",
    "Tone: 10/10. Overall poor.": "may mean another thing",
    "**Tone:** 10/10\nOverall poor.": "may mean another thing",
    "7-8/10": "no score",
    "17/10/2024": "no score",
    "9/10 users would agree.": "no score",
    'It says "10/10" of itself.': "no score",
    "I rate it 4 out of 5.": "out of 5, and the scale ends at 10",
    '{"score": ' + "[" * 940 + "]" * 940 + "}": "a list, which is no number",
    '{"score": ' + '{"a":' * 400 + "1" + "}" * 401: "a mapping, which is no number",
    '{"a":' * 5000: "no score",
    "{" * 100_000: "no score",
}


@pytest.mark.parametrize(("answer", "score"), SCORES.items())
def test_a_score_is_found(answer: str, score: float) -> None:
    assert parse_score(answer, 1, 10) == score


@pytest.mark.parametrize(("answer", "why"), NONSENSE.items(), ids=range(len(NONSENSE)))
def test_nonsense_is_no_score(answer: str, why: str) -> None:
    with pytest.raises(Unusable, match=re.escape(why)):
        parse_score(answer, 1, 10)


def test_the_ends_of_the_scale_are_on_it() -> None:
    assert [parse_score(text, -1, 1) for text in ("-1", "1", "0", '{"score": -0.5}')] == [-1, 1, 0, -0.5]


MINUSES = ("\u2212", "\ufe63", "\uff0d")
DASHES = ("\u2010", "\u2011", "\u2012", "\u2013", "\u2014", "\u2015", "\u2212 ")


@pytest.mark.parametrize("minus", MINUSES)
@pytest.mark.parametrize(
    "answer", ["-3", "-3/5", "Score: -3", "I rate this -3/5.", '{"score": -3}', '{"score": "-3/5"}']
)
def test_a_minus_of_unicode_is_a_minus(answer: str, minus: str) -> None:
    assert parse_score(answer.replace("-", minus), -5, 5) == -3


@pytest.mark.parametrize("dash", DASHES)
@pytest.mark.parametrize("answer", ["-3", "-3/5", "Score: -3", "I rate this -3/5.", "I rate this 2-3/5."])
def test_what_may_be_a_minus_or_a_dash_is_no_score(answer: str, dash: str) -> None:
    with pytest.raises(Unusable):
        parse_score(answer.replace("-", dash), -5, 5)


PIECES = st.sampled_from(
    [
        *("{", "}", "[", "]", '"', ":", ",", "\\", "/", "10", "7", "1e999", "9" * 5000, "-", ".", "\n"),
        *("score", '{"score":', '{"better":', "tie", "NaN", "null", "not", " out of ", "</think>"),
        *("[" * 900, '{"a":' * 300, "\ud83d"),
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
).map(json.dumps)
NAMED = st.builds('{{"{}": {}}}'.format, st.sampled_from(["score", "better"]), JSON)


def test_every_depth_that_json_reads_is_an_answer_or_unusable() -> None:
    # Python reads about as deep as it recurses, and writes less deep.
    for depth in range(700, 1000):
        for name, read in (("score", lambda text: parse_score(text, 1, 10)), ("better", parse_preference)):
            with pytest.raises(Unusable):
                read(f'{{"{name}": {"[" * depth}{"]" * depth}}}')


@settings(max_examples=300)
@given(st.lists(PIECES, max_size=30).map("".join) | NAMED)
def test_any_text_and_any_json_is_an_answer_or_unusable(answer: str) -> None:
    for read in (lambda: parse_score(answer, 1, 10), lambda: parse_preference(answer)):
        try:
            assert 0 <= read() <= 10
        except Unusable as none:
            assert len(str(none)) < 300


@pytest.mark.parametrize(
    "answer",
    [
        "7/10 " * 4000,
        "score:" + "1" * 20_000 + "%",
        "score: 7 " * 2500,
        "score: 7" + " " * 20_000 + "x",
        ("7/10" + " " * 50) * 400,
        "7/10 x. " * 2500,
    ],
)
def test_a_long_answer_takes_no_time(answer: str) -> None:
    begun = time.process_time()
    with contextlib.suppress(Unusable):
        parse_score(answer, 1, 10)
    assert time.process_time() - begun < 1


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
