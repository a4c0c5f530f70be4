from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.data.batches import batch_at
from tests.support.records import prompt


def ids(size, step, prompts_per_step, seed=0):
    prompts = [prompt(str(index)) for index in range(size)]
    return [chosen.prompt_id for chosen in batch_at(prompts, step, prompts_per_step, seed)]


@given(size=st.integers(1, 12), prompts_per_step=st.integers(1, 8), seed=st.integers(0, 9))
def test_every_epoch_shows_each_prompt_once(size, prompts_per_step, seed):
    # size steps of prompts_per_step prompts are prompts_per_step whole epochs.
    stream = [name for step in range(1, size + 1) for name in ids(size, step, prompts_per_step, seed)]
    for epoch in range(prompts_per_step):
        assert Counter(stream[epoch * size : (epoch + 1) * size]) == Counter(map(str, range(size)))


def test_a_batch_is_a_function_of_the_step_and_not_of_the_steps_before():
    alone = ids(10, 7, 4)
    for step in range(1, 7):
        ids(10, step, 4)
    assert ids(10, 7, 4) == alone


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
