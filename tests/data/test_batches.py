from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.data.batches import Batches
from tests.support.records import prompt


def ids(size, step, prompts_per_step, seed=0):
    prompts = [prompt(str(index)) for index in range(size)]
    return [chosen.prompt_id for chosen in Batches(prompts, prompts_per_step, seed).at(step)]


def grouped(counts, prompts_per_step, seed=0):
    """Balanced batches of preference groups with so many prompts each; ids are `group/number`."""
    prompts = [
        prompt(f"{name}/{index}", preference_group=name)
        for name, count in counts.items()
        for index in range(count)
    ]
    return Batches(prompts, prompts_per_step, seed, "balanced")


def stream_of(batches, steps):
    return [chosen.prompt_id for step in range(1, steps + 1) for chosen in batches.at(step)]


@given(size=st.integers(1, 12), prompts_per_step=st.integers(1, 8), seed=st.integers(0, 9))
def test_every_epoch_shows_each_prompt_once(size, prompts_per_step, seed):
    # size steps of prompts_per_step prompts are prompts_per_step whole epochs.
    stream = [name for step in range(1, size + 1) for name in ids(size, step, prompts_per_step, seed)]
    for epoch in range(prompts_per_step):
        assert Counter(stream[epoch * size : (epoch + 1) * size]) == Counter(map(str, range(size)))


@given(
    counts=st.dictionaries(st.sampled_from("abcde"), st.integers(1, 6), min_size=1),
    prompts_per_step=st.integers(1, 7),
    seed=st.integers(0, 9),
)
def test_balanced_rounds_take_one_prompt_of_each_preference_group(counts, prompts_per_step, seed):
    K = len(counts)
    stream = stream_of(grouped(counts, prompts_per_step, seed), 6 * K)
    for start in range(0, len(stream), K):
        assert sorted(name.split("/")[0] for name in stream[start : start + K]) == sorted(counts)
    # Each preference group goes through all of its prompts before one comes again.
    for group, count in counts.items():
        own = [name for name in stream if name.startswith(f"{group}/")]
        for start in range(0, len(own) - count + 1, count):
            assert len(set(own[start : start + count])) == count


def test_balanced_orders_differ_by_round_epoch_and_seed():
    stream = stream_of(grouped({"a": 20, "b": 20, "c": 20}, 6), 20)
    rounds = {tuple(name[0] for name in stream[start : start + 3]) for start in range(0, len(stream), 3)}
    assert len(rounds) > 3
    own = [name for name in stream if name.startswith("a/")]
    assert own[:20] != own[20:]
    assert stream != stream_of(grouped({"a": 20, "b": 20, "c": 20}, 6, seed=1), 20)
    orders = {tuple(int(name[2:]) for name in stream if name.startswith(group)) for group in "abc"}
    assert len(orders) == 3


def test_the_order_of_preference_groups_in_the_data_changes_nothing():
    one, other = grouped({"a": 3, "b": 2}, 4), grouped({"b": 2, "a": 3}, 4)
    assert stream_of(one, 5) == stream_of(other, 5)


@pytest.mark.parametrize("of", [lambda step: ids(10, step, 4), grouped({"a": 9, "b": 2, "c": 1}, 4).at])
def test_a_batch_is_a_function_of_the_step_and_not_of_the_steps_before(of):
    alone = of(7)
    for step in range(1, 7):
        of(step)
    assert of(7) == alone


def test_the_batch_size_does_not_change_the_order_of_prompts():
    assert ids(10, 1, 4) + ids(10, 2, 4) == ids(10, 1, 8)


def test_epochs_and_seeds_differ():
    first, second, other_seed = ids(50, 1, 50), ids(50, 2, 50), ids(50, 1, 50, seed=1)
    assert len({tuple(first), tuple(second), tuple(other_seed), tuple(map(str, range(50)))}) == 4


def test_the_order_is_the_same_on_every_machine():
    assert ids(8, 1, 8) == ["6", "1", "2", "5", "7", "4", "3", "0"]


@pytest.mark.parametrize(("size", "step", "per_step"), [(3, 0, 2), (3, -1, 2), (3, 1, 0), (0, 1, 2)])
def test_impossible_batches_are_refused(size, step, per_step):
    with pytest.raises(ValueError, match=f"no batch for step {step} of {per_step} out of {size} prompts"):
        ids(size, step, per_step)
