"""A judge that compares pairs, behind a real HTTP server: asked in both orders; no failure is a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.errors import RecipeError, RewardError
from pgrpo_cli.eval.judge import PairwiseJudge, Shares, build_pairwise_judge
from pgrpo_cli.recipe.evaluation import PairJudge
from pgrpo_cli.rewards.base import BuildContext, Completion
from tests.support.judge import Answer, Asked, JudgeServer, pair_section, shown_pair

pytestmark = pytest.mark.filterwarnings("error")


def pairs_of(*texts: tuple[str, str], **columns: Any) -> list[tuple[Completion, Completion]]:
    """Pairs (base, tuned), each of a prompt of its own."""
    return [
        tuple(Completion(str(i), "calm", "Ask?", text, columns) for text in pair)  # type: ignore[misc]
        for i, pair in enumerate(texts)
    ]


def compared(server: JudgeServer, *texts: tuple[str, str], **section: Any) -> list[Shares]:
    return PairwiseJudge(pair_section(server, **section), None, None).compare(pairs_of(*texts))


def longest(asked: Asked) -> str:
    """Prefers the longer answer, wherever it stands."""
    first, second = map(len, shown_pair(asked))
    return '{"better": "tie"}' if first == second else f'{{"better": {1 if first > second else 2}}}'


def test_each_pair_is_shown_in_both_orders(serve: Any) -> None:
    server = serve(longest)
    found = compared(server, ("short", "much longer"), ("much longer", "short"), ("one", "two"))
    # The second half of each is what the tuned one got where it was shown second.
    assert found == [(1.0, 1.0), (0.0, 0.0), (0.5, 0.5)]
    # Two of the six questions are asked twice, and answered once.
    assert sorted(map(shown_pair, server.asked)) == [
        ("much longer", "short"), ("one", "two"), ("short", "much longer"), ("two", "one"),
    ]  # fmt: skip


def test_a_judge_that_always_prefers_the_first_contradicts_itself(serve: Any) -> None:
    assert compared(serve(lambda a: '{"better": 1}'), ("a", "b"), ("c", "d")) == [(1.0, 0.0)] * 2
    assert compared(serve(lambda a: '{"better": 2}'), ("a", "b")) == [(0.0, 1.0)]


def test_alike_completions_are_alike_and_nobody_is_asked(serve: Any) -> None:
    server = serve(lambda a: '{"better": 1}')
    assert compared(server, ("same", "same")) == [(0.5, 0.5)]
    assert server.asked == []


def test_the_rubric_sees_both_answers_and_the_row(serve: Any) -> None:
    server = serve(lambda asked: '{"better": "tie"}')
    rubric = (
        "{{ prompt }}|{{ first }}|{{ second }}|{{ preference_group_rubric }}|{{ columns.user }}|"
        "{{ reference }}"
    )
    section = pair_section(server, rubric=rubric, preference_group_rubrics={"calm": "Be brief."})
    judge = PairwiseJudge(section, None, None)
    judge.compare(pairs_of(("b", "t"), user="u7", reference="Gold"))
    assert sorted(asked.text for asked in server.asked) == [
        "Ask?|b|t|Be brief.|u7|Gold",
        "Ask?|t|b|Be brief.|u7|Gold",
    ]
    system = server.asked[0].body["messages"][0]["content"]
    assert '{"better": "tie"} if neither is' in system


def missing(found: Sequence[Shares]) -> list[tuple[bool, bool]]:
    return [(math.isnan(first), math.isnan(second)) for first, second in found]


def test_no_failure_is_ever_a_verdict(serve: Any) -> None:
    def sometimes(asked: Asked) -> Answer | str:
        first, _ = shown_pair(asked)
        troubles = {
            "nonsense": Answer("mu"), "refused": Answer("1", status=400), "broken": Answer(raw=b"{"),
            "cut off": Answer("1", finish_reason="length"), "gone": Answer(hangs_up=True),
        }  # fmt: skip
        return troubles.get(first, "1")

    server = serve(sometimes)
    texts = [("fine", "better")]
    texts += [(what, "tuned") for what in ("nonsense", "refused", "broken", "cut off", "gone")]
    section = pair_section(server, retries=1, max_failure_share=1, concurrency=1)
    judge = PairwiseJudge(section, None, None)
    found = judge.compare(pairs_of(*texts))
    # Only the order in which the base model's text comes first fails.
    assert missing(found) == [(False, False)] + [(False, True)] * 5
    assert {first for first, _ in found} == {1.0}
    assert judge.usage()["failed"] == 5


def test_a_judge_that_is_down_stops_it(serve: Any) -> None:
    server = serve(lambda a: Answer(status=503, raw=b"out of memory"))
    with pytest.raises(RewardError, match=r"'eval\.judge' at .* does not answer, after 2 attempts: 503"):
        compared(server, *[(f"b{i}", f"t{i}") for i in range(50)], retries=1, concurrency=2)
    # Two pairs at once, in two orders, two attempts each: the other pairs were never asked about.
    assert len(server.asked) < 20


def test_a_judge_that_fails_too_often_stops_it(serve: Any) -> None:
    server = serve(lambda a: "1" if a.number < 4 else "mu")
    with pytest.raises(RewardError, match=r"'eval\.judge' at .* failed on 6 of the last 10 questions"):
        compared(server, *[(f"b{i}", f"t{i}") for i in range(50)], failure_window=10, concurrency=1)


def test_answers_are_kept(serve: Any, tmp_path: Path) -> None:
    server = serve(longest)
    context = BuildContext(tmp_path, False, run_dir=tmp_path)
    texts = pairs_of(("a", "bb"), ("ccc", "d"))
    first = build_pairwise_judge(pair_section(server), context).compare(texts)
    assert len(server.asked) == 4
    told: list[int] = []
    again = build_pairwise_judge(pair_section(server), context)
    assert again.compare(texts, told.append) == first == [(1.0, 1.0), (0.0, 0.0)]
    assert len(server.asked) == 4 and told == [1, 2]
    assert again.usage() == {"calls": 0, "cached": 4, "failed": 0, "input_tokens": 0, "output_tokens": 0}


def test_another_machine_must_be_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = PairJudge(base_url="https://judge.example.org/v1", model="m", api_key_env="JUDGE_KEY")
    with pytest.raises(RecipeError, match=r"eval\.judge sends prompts and completions to judge\."):
        build_pairwise_judge(section, BuildContext(tmp_path, False))
    allowed = BuildContext(tmp_path, False, allowed_hosts=frozenset({"judge.example.org"}))
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(RecipeError, match=r"eval\.judge: the environment variable JUDGE_KEY is not set"):
        build_pairwise_judge(section, allowed)
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    assert build_pairwise_judge(section, allowed)
