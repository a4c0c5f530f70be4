import math
from pathlib import Path
from typing import get_args

import pytest

from pgrpo_cli.errors import RecipeError, RewardError
from pgrpo_cli.recipe.rewards import KeywordReward, PersonasReward, RegexReward, Reward
from pgrpo_cli.rewards.base import Completion, RewardFunction, Score
from pgrpo_cli.rewards.build import REWARDS, RewardSum, Term, build_rewards


class Scripted:
    """A reward with two parts that gives each completion what `values` says, whatever it is."""

    parts = ("first", "second")
    value_range = None

    def __init__(self, *values):
        self.values = values

    def __call__(self, completions):
        return [Score(self.values[int(c.prompt_id)], {"first": 1.0, "second": 2.0}) for c in completions]


def completions(*texts, groups=None):
    groups = groups or ["a"] * len(texts)
    return [
        Completion(str(i), group, "prompt", text)
        for i, (text, group) in enumerate(zip(texts, groups, strict=True))
    ]


def summed(*functions, weights=None, groups=None):
    weights = weights or [1.0] * len(functions)
    return RewardSum(
        tuple(
            Term(f"r{i}", weight, groups, function)
            for i, (function, weight) in enumerate(zip(functions, weights, strict=True))
        )
    )


def test_every_reward_type_of_the_schema_has_a_factory():
    union = get_args(Reward)[0]
    types = [section.model_fields["type"].default for section in get_args(union)]
    assert sorted(types) == list(REWARDS)


def test_the_total_is_the_weighted_sum_and_every_part_is_recorded():
    rewards = build_rewards(
        [
            RegexReward(pattern="jazz", weight=2.0),
            KeywordReward(keywords=("sax", "horn"), need="share", weight=-1.0, name="words"),
            PersonasReward(),
        ],
        Path(),
        allow_code=False,
    )
    assert rewards.parts == ("regex", "words", "personas.style", "personas.genre")
    score = rewards(completions("jazz with sax", groups=["terse-jazz"]))[0]
    assert score.parts == {"regex": 1.0, "words": 0.5, "personas.style": 1.0, "personas.genre": 1.0}
    # 2 * 1 - 1 * 0.5 + (-1 + 3 * (0.6 + 0.4)) = 3.5
    assert score.value == pytest.approx(3.5)


def test_scores_keep_the_order_of_the_completions():
    rewards = build_rewards([RegexReward(pattern="x")], Path(), allow_code=False)
    assert [score.value for score in rewards(completions("x", "-", "x", "-"))] == [1, 0, 1, 0]


def test_a_reward_for_other_preference_groups_adds_nothing_and_records_nothing():
    sections = [RegexReward(pattern=".", preference_groups=("b",)), KeywordReward(keywords=("x",), weight=10)]
    rewards = build_rewards(sections, Path(), allow_code=False)
    of_a, of_b = rewards(completions("x", "x", groups=["a", "b"]))
    assert (of_a.value, of_a.parts) == (10.0, {"keyword": 1.0})
    assert (of_b.value, of_b.parts) == (11.0, {"regex": 1.0, "keyword": 1.0})


def test_no_completions_have_no_scores():
    assert build_rewards([RegexReward(pattern=".")], Path(), allow_code=False)([]) == []


def test_nan_makes_the_total_nan_and_leaves_its_part_out():
    def function(completions):
        return [Score(math.nan, {"value": math.nan}) for _ in completions]

    function.parts, function.value_range = ("value",), None
    score = summed(Scripted(5.0), function)(completions("x"))[0]
    assert math.isnan(score.value)
    assert score.parts == {"r0.first": 1.0, "r0.second": 2.0}


def test_nan_of_a_reward_with_weight_0_leaves_the_total_alone():
    score = summed(Scripted(5.0), Scripted(math.nan), weights=[1.0, 0.0])(completions("x"))[0]
    assert score.value == 5.0
    assert score.parts["r1.first"] == 1.0


def test_nan_of_a_reward_that_does_not_apply_leaves_the_total_alone():
    term = Term("nan", 1.0, frozenset({"b"}), Scripted(math.nan))
    assert RewardSum((term,))(completions("x"))[0].value == 0.0


@pytest.mark.parametrize("value", ["0.5", b"1", None, math.inf, -math.inf, [1.0, 2.0], 1j, object()])
def test_what_is_no_number_stops_with_the_prompt_and_the_value(value):
    with pytest.raises(RewardError) as caught:
        summed(Scripted(1.0, value))(completions("fine", "odd one"))
    for said in ("reward 'r0'", repr(value), "prompt 1", "preference group 'a'", "'odd one'", "NaN"):
        assert said in str(caught.value)


@pytest.mark.parametrize("value", [1, True, 0.5])
def test_numbers_of_any_kind_count(value):
    assert summed(Scripted(value))(completions("x"))[0].value == float(value)


def test_numbers_of_numpy_and_torch_count():
    numpy, torch = pytest.importorskip("numpy"), pytest.importorskip("torch")
    values = (numpy.float32(0.5), torch.tensor(0.25))
    assert [score.value for score in summed(Scripted(*values))(completions("x", "y"))] == [0.5, 0.25]


def test_a_reward_that_raises_names_the_completion_it_raises_on():
    def function(completions):
        return [Score(1 / len(c.text), {}) for c in completions]

    function.parts, function.value_range = ("value",), None
    with pytest.raises(RewardError) as caught:
        summed(function)(completions("fine", "", groups=["a", "b"]))
    message = str(caught.value)
    assert "'r0' raised ZeroDivisionError: division by zero; prompt 1 of preference group 'b'" in message


def test_a_user_error_inside_a_reward_keeps_its_own_message():
    def function(completions):
        raise RewardError("the judge is down", remedy="Start it.")

    function.parts, function.value_range = ("value",), None
    with pytest.raises(RewardError, match=r"^the judge is down\n  Start it.$"):
        summed(function)(completions("x"))


def test_too_few_values_are_refused():
    def function(completions):
        return [Score(1.0, {})]

    function.parts, function.value_range = ("value",), None
    with pytest.raises(RewardError, match="returned 1 values for 2 completions"):
        summed(function)(completions("x", "y"))


def test_a_part_that_is_not_declared_is_refused():
    def function(completions):
        return [Score(1.0, {"other": 1.0}) for _ in completions]

    function.parts, function.value_range = ("value",), None
    with pytest.raises(RewardError, match="recorded part 'other'"):
        summed(function)(completions("x"))


def test_a_bare_number_instead_of_a_score_is_refused():
    def function(completions):
        return [1.0 for _ in completions]

    function.parts, function.value_range = ("value",), None
    with pytest.raises(RewardError, match=r"returned 1\.0 where a Score was due"):
        summed(function)(completions("x"))


def test_two_rewards_of_one_name_are_refused():
    sections = [RegexReward(pattern="a"), RegexReward(pattern="b")]
    with pytest.raises(RecipeError, match=r"rewards\[0\] and rewards\[1\].*'regex'"):
        build_rewards(sections, Path(), allow_code=False)


def test_every_factory_makes_a_reward(tmp_path):
    rewards = build_rewards([PersonasReward(), RegexReward(pattern="a")], tmp_path, allow_code=False)
    assert all(isinstance(term.function, RewardFunction) for term in rewards.terms)
