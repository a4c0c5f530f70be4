"""What a reward may return, and what is said about one that returns something else or raises."""

import asyncio
import math
from dataclasses import replace

import pytest

from pgrpo_cli.errors import RewardError
from pgrpo_cli.rewards.base import Completion, Score, is_asynchronous, required
from tests.support.rewards import Awaited, Plain, completions, scored, summed, threads_left

# A coroutine that is never awaited is a warning.
pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(params=[Plain, Awaited], ids=["plain", "awaited"])
def kind(request):
    yield request.param
    assert threads_left() == []


def giving(kind, *values):
    """A reward that gives the completion of prompt i the i-th value."""
    return kind(lambda completions: [Score(values[int(c.prompt_id)], {"value": 0.0}) for c in completions])


@pytest.mark.parametrize("value", ["0.5", b"1", None, math.inf, -math.inf, [1.0, 2.0], 1j, object()])
def test_what_is_no_number_stops_with_the_prompt_and_the_value(kind, value):
    with pytest.raises(RewardError) as caught:
        scored(summed(giving(kind, 1.0, value)), completions("fine", "odd one"))
    for said in ("reward 'r0'", repr(value), "prompt 1", "preference group 'a'", "'odd one'", "NaN"):
        assert said in str(caught.value)


class Unwritable:
    def __repr__(self):
        raise ValueError

    def __float__(self):
        raise KeyError


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (1.1e150, "returned 1.1e+150 (float), which is too large; prompt 0"),
        (-1e308, "returned -1e+308 (float), which is too large; prompt 0"),
        (10**400, "which is no finite number; prompt 0"),
        (10**5000, "returned something of type int that cannot be written (int), which is no finite number"),
        ("x" * 10**6, "which is no finite number; prompt 0"),
        (Unwritable(), "returned something of type Unwritable that cannot be written (Unwritable), wh"),
    ],
    ids=range(6),
)
def test_a_number_whose_square_is_infinite_stops_too(kind, value, said):
    with pytest.raises(RewardError) as caught:
        scored(summed(giving(kind, value)), completions("x"))
    assert said in caught.value.message
    assert len(caught.value.message) < 500
    assert "at most 1e+150, since squares are summed" in str(caught.value.remedy)


def test_the_largest_number_counts(kind):
    assert scored(summed(giving(kind, 1e150)), completions("x"))[0].value == 1e150


@pytest.mark.parametrize("value", [1, True, 0.5])
def test_numbers_of_any_kind_count(kind, value):
    assert scored(summed(giving(kind, value)), completions("x"))[0].value == float(value)


def test_numbers_of_numpy_and_torch_count(kind):
    numpy, torch = pytest.importorskip("numpy"), pytest.importorskip("torch")
    rewards = summed(giving(kind, numpy.float32(0.5), torch.tensor(0.25)))
    assert [score.value for score in scored(rewards, completions("x", "y"))] == [0.5, 0.25]


def test_nan_counts_as_missing(kind):
    first, second = scored(summed(giving(kind, math.nan, 1.0)), completions("x", "y"))
    assert math.isnan(first.value)
    assert second.value == 1.0


def test_a_reward_that_raises_names_the_completion_it_raises_on(kind):
    function = kind(lambda completions: [Score(1 / len(c.text), {}) for c in completions])
    with pytest.raises(RewardError) as caught:
        scored(summed(function), completions("fine", "", "", groups=["a", "b", "c"]))
    message = str(caught.value)
    assert "'r0' raised ZeroDivisionError: division by zero; prompt 1 of preference group 'b'" in message
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_reward_that_raises_on_no_completion_alone_says_so(kind):
    def together(completions):
        if len(completions) > 1:
            raise ConnectionError("too much at once")
        return [Score(0.0, {})]

    with pytest.raises(RewardError) as caught:
        scored(summed(kind(together)), completions("x", "y"))
    assert "'r0' raised ConnectionError: too much at once; but not when called again with each" in str(
        caught.value
    )
    assert "alone; the first of 2: prompt 0 of preference group 'a', completion 'x'" in str(caught.value)


@pytest.mark.parametrize("error", [SystemExit("enough"), asyncio.CancelledError("enough")])
def test_a_reward_that_exits_or_cancels_itself_has_failed(error):
    def leave(completions):
        raise error

    with pytest.raises(RewardError, match=f"raised {type(error).__name__}: enough; prompt 0"):
        scored(summed(Awaited(leave)), completions("x"))
    assert threads_left() == []


def test_a_plain_reward_that_exits_has_failed():
    def leave(completions):
        raise SystemExit(0)

    with pytest.raises(RewardError, match="raised SystemExit: 0; prompt 0"):
        scored(summed(Plain(leave)), completions("x"))


def test_a_user_error_inside_a_reward_keeps_its_own_message(kind):
    def function(completions):
        raise RewardError("the judge is down", remedy="Start it.")

    with pytest.raises(RewardError, match=r"^the judge is down\n  Start it.$"):
        scored(summed(kind(function)), completions("x"))


def test_too_few_values_are_refused(kind):
    with pytest.raises(RewardError, match="returned 1 values for 2 completions; prompt 0"):
        scored(summed(kind(lambda completions: [Score(1.0, {})])), completions("x", "y"))


def test_a_part_that_is_not_declared_is_refused(kind):
    function = kind(lambda completions: [Score(1.0, {"other": 1.0}) for _ in completions])
    with pytest.raises(RewardError, match="recorded part 'other'"):
        scored(summed(function), completions("x"))


def test_a_bare_number_instead_of_a_score_is_refused(kind):
    with pytest.raises(RewardError, match=r"returned 1\.0 where a Score was due"):
        scored(summed(kind(lambda completions: [1.0 for _ in completions])), completions("x"))


def test_a_coroutine_from_a_plain_reward_is_refused_and_closed():
    async def judge(completions):
        return [Score(1.0, {}) for _ in completions]

    with pytest.raises(RewardError, match="'r0' raised TypeError: it returned a coroutine and is no `async"):
        scored(summed(Plain(judge)), completions("x", "y"))


def test_which_rewards_are_asynchronous():
    async def function(completions): ...

    assert is_asynchronous(function)
    assert is_asynchronous(Awaited(function))
    assert not is_asynchronous(Plain(function))
    # A class makes an object when it is called, and awaits nothing.
    assert not is_asynchronous(Awaited)
    assert not is_asynchronous(len)


def test_what_data_hold_is_cut_in_messages(kind):
    def fail(completions):
        raise ValueError("e" * 10**6)

    long = Completion("p" * 10**5, "g" * 10**5, "", "t" * 10**5)
    with pytest.raises(RewardError) as caught:
        scored(summed(kind(fail)), [long])
    assert len(caught.value.message) < 1500
    with pytest.raises(RewardError) as caught:
        required(replace(long, columns={f"c{i}": 1 for i in range(99)}), "gone", "r", "column")
    assert " and 69 more); prompt ppp" in caught.value.message
    assert len(caught.value.message) < 600
