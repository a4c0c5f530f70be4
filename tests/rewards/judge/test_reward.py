"""A judge behind a real HTTP server: what it is asked, and what becomes of its answers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.errors import RewardError
from pgrpo_cli.recipe import templates
from pgrpo_cli.rewards.base import Completion, Score
from pgrpo_cli.rewards.judge.reward import Judge
from tests.support.judge import Answer, Asked, by_length, echo, judged, missing, values
from tests.support.rewards import completions, scored, summed

pytestmark = pytest.mark.filterwarnings("error")


def test_scores_are_mapped_to_the_unit_interval(serve: Any) -> None:
    # (1 - 1) / 9, (10 - 1) / 9, (5.5 - 1) / 9
    assert judged(serve(echo), "1", "10", "5.5") == [0.0, 1.0, 0.5]


def test_raw_scores_stay_as_they_are(serve: Any) -> None:
    server = serve(echo)
    assert judged(server, "-2", "3", scale=(-2, 3), raw=True) == [-2.0, 3.0]
    assert Judge(server.section(scale=(-2, 3), raw=True), None, None).value_range == (-2, 3)
    assert Judge(server.section(scale=(-2, 3)), None, None).value_range == (0, 1)


def test_the_score_is_recorded_as_a_part(serve: Any) -> None:
    judge = Judge(serve(lambda a: "10" if "good" in a.text else "?").section(), None, None)
    good, bad = scored(summed(judge), completions("good", "bad"))
    assert good == Score(1.0, {"r0": 1.0})
    assert math.isnan(bad.value)
    assert bad.parts == {}


RUBRIC = (
    "{{ prompt }}|{{ completion }}|{{ preference_group }}|{{ preference_group_rubric }}|"
    "{{ columns.user|tojson }}|{% if reference is defined %}{{ reference }}{% else %}none{% endif %}"
)


def test_the_rubric_sees_the_completion_and_its_row(serve: Any) -> None:
    server = serve(by_length)
    section = server.section(rubric=RUBRIC, preference_group_rubrics={"é": "Be brief."}, concurrency=1)
    rows = [
        Completion("0", "é", "Ask?", "Answer.", {"user": 7, "reference": "Gold"}),
        Completion("1", "plain", "Ask?", "Half a pair: \ud83d", {"user": [1]}),
    ]
    scored(summed(Judge(section, None, None)), rows)
    assert [asked.text for asked in server.asked] == [
        "Ask?|Answer.|é|Be brief.|7|Gold",
        "Ask?|Half a pair: ?|plain||[1]|none",
    ]


def test_what_is_asked_is_what_the_recipe_says(serve: Any) -> None:
    server = serve(by_length)
    judged(server, "x")
    judged(
        server, "x", model="big", max_tokens=9, temperature=None, response_format="json_object",
        extra_body={"reasoning_effort": "low"},
    )  # fmt: skip
    plain, full = (dict(asked.body) for asked in server.asked)
    system, _ = plain.pop("messages")
    assert system["role"] == "system"
    assert "from 1 (worst) to 10 (best)" in system["content"]
    assert plain == {"model": "small", "max_tokens": 256, "temperature": 0}
    del full["messages"]
    assert full == {
        "model": "big",
        "max_tokens": 9,
        "response_format": {"type": "json_object"},
        "reasoning_effort": "low",
    }
    assert {asked.path for asked in server.asked} == {"/v1/chat/completions"}


def test_a_rubric_that_cannot_be_written_names_the_prompt(serve: Any) -> None:
    server = serve(by_length)
    with pytest.raises(RewardError, match=r"prompt 0 of preference group 'a': 'reference' is undefined"):
        judged(server, "x", rubric="{{ reference }} {{ completion }}")
    assert server.asked == []


def test_a_rubric_that_writes_a_null_is_told_how_to_avoid_it(serve: Any) -> None:
    section = serve(by_length).section(rubric="{{ columns.note }}{{ completion }}")
    row = Completion("0", "a", "Ask?", "Answer.", {"note": None})
    with pytest.raises(RewardError, match="writes a null") as caught:
        scored(summed(Judge(section, None, None)), [row])
    assert "{{ columns.note or '' }}" in str(caught.value.remedy)


def test_loops_of_a_rubric_are_bounded(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "SECONDS", 0.2)
    rubric = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{{ completion }}"
    with pytest.raises(RewardError, match=r"stopped after 0\.2 seconds of processor time"):
        judged(serve(by_length), "x" * 1000, rubric=rubric)


def test_a_rubric_without_bounds_is_stopped(serve: Any) -> None:
    rubric = "{% for a in completion %}{% for b in completion %}{{ completion }}{% endfor %}{% endfor %}"
    with pytest.raises(RewardError, match="needing more than 512 MiB of memory"):
        judged(serve(by_length), "x" * 1000, rubric=rubric)


def test_nonsense_gets_one_reminder(serve: Any) -> None:
    server = serve(lambda a: "10" if a.is_reminder else "Brilliant!")
    assert judged(server, "x") == [1.0]
    first, again = (asked.body["messages"] for asked in server.asked)
    assert again[:2] == first
    assert again[2] == {"role": "assistant", "content": "Brilliant!"}
    assert "cannot be used: it holds no score" in again[3]["content"]


WRONG = {
    "words": "Brilliant!",
    "empty": "",
    "null": None,
    "cut JSON": '{"score": 1',
    "off the scale": "11",
    "a scale of its own": "70/100",
}


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG)
def test_nonsense_twice_is_no_score_and_never_zero(serve: Any, answer: str | None) -> None:
    server = serve(lambda a: "10" if echo(a) == "fine" else Answer(answer))
    judge = Judge(server.section(), None, None)
    assert missing(values(judge, ["fine", "x"])) == [False, True]
    assert len(server.asked) == 3
    assert judge.usage()["failed"] == 1


def test_an_answer_cut_off_is_no_score(serve: Any) -> None:
    # It may have been about to be 10. A second answer would be cut off, too: one request each.
    server = serve(lambda a: "10" if echo(a) == "fine" else Answer("Score: 1", finish_reason="length"))
    judge = Judge(server.section(concurrency=1), None, None)
    assert missing(values(judge, ["fine", "x"])) == [False, True]
    assert len(server.asked) == 2
    assert "cut off at 256 tokens; raise max_tokens: it said 'Score: 1'" in judge.complaints()[0]


def test_thoughts_are_read_where_nothing_is_said(serve: Any) -> None:
    def answer(asked: Asked) -> Answer:
        content, name, thoughts = json.loads(echo(asked))
        message = {"content": content, name: thoughts}
        return Answer(raw=json.dumps({"choices": [{"message": message}]}).encode())

    found = judged(
        serve(answer),
        '["", "reasoning_content", "Brisk. Score: 10"]',
        '[null, "reasoning", "{\\"score\\": 10}"]',
        '["<think>3</think>\\n", "reasoning_content", "10"]',
        '["1", "reasoning_content", "Score: 10"]',
        '["", "reasoning_content", "Score: 10? No, score: 3."]',
        '["", "reasoning_content", ["10"]]',
        '[[{"type": "thinking"}, {"type": "text", "text": "1"}, {"type": "text", "text": "0"}], "", ""]',
        '["half a pair: \\ud83d 10/10", "reasoning_content", null]',
    )
    assert found[:4] == [1.0, 1.0, 1.0, 0.0]
    assert missing(found[4:6]) == [True, True]
    assert found[6:] == [1.0, 1.0]


def test_half_a_surrogate_pair_in_an_answer_is_no_trouble(serve: Any, tmp_path: Path) -> None:
    # In the reminder and in what is kept.
    server = serve(lambda a: '{"score": 10, "why": "\ud83d"}' if a.is_reminder else "Hm \ud83d")
    judge = Judge(server.section(), tmp_path / "judge.sqlite", None)
    assert values(judge, ["x"]) == [1.0]


def test_half_of_the_answers_may_be_nonsense(serve: Any) -> None:
    server = serve(lambda a: "mu" if int(echo(a)) % 2 else "10")
    found = judged(server, *map(str, range(40)))
    assert found[::2] == [1.0] * 20
    assert missing(found[1::2]) == [True] * 20


def test_no_failure_is_ever_a_number(serve: Any) -> None:
    # Whatever goes wrong, in turn: a failure comes out as NaN, and a score of 0 only where the judge gave 1.
    troubles = [
        Answer("?"), Answer(None), Answer(raw=b"{"), Answer(raw=b""), Answer(raw=b"null"), Answer(raw=b"[]"),
        Answer(raw=b'{"choices": []}'), Answer(raw=b'{"choices": [{"message": {"content": 0}}]}'),
        Answer(raw=b'{"error": {"message": "0"}}'), Answer("0", status=500), Answer("0", status=400),
        Answer("0", status=429), Answer(hangs_up=True), Answer("0"), Answer("0/10"), Answer('{"score": ""}'),
        Answer(raw=b"\xff\xfe0"), Answer(raw=b"[" * 100_000), Answer(status=204, raw=b""),
    ]  # fmt: skip
    server = serve(lambda a: troubles[int(echo(a))] if int(echo(a)) < len(troubles) else "1")
    judge = Judge(server.section(retries=1, max_failure_share=1, concurrency=1), None, None)
    # The first is answered, so that what follows is no judge that was never there.
    found = values(judge, ["99", *map(str, range(len(troubles)))])
    assert found[0] == 0.0
    assert missing(found[1:]) == [True] * len(troubles)
    assert judge.usage()["failed"] == len(troubles)
