import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.model.rollout.rounding import COARSE, EXACT, KeptRows, Rounding, bucket

SOON = Rounding(exact=False, check_every=1)


def test_rungs_climb_twice_an_octave():
    assert sorted({bucket(n) for n in range(1, 49)}) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48]
    assert sorted({bucket(n, smallest=64) for n in range(1, 400)}) == [64, 96, 128, 192, 256, 384, 512]
    # Eight buckets between 1024 and 2048: 128 apart.
    found = [bucket(n, smallest=64, per_octave=8) for n in (1024, 1025, 1152, 1153)]
    assert found == [1024, 1152, 1152, 1280]


@given(st.integers(1, 10**6), st.integers(1, 128), st.sampled_from([1, 2, 4, 8]))
def test_a_bucket_holds_its_count_and_is_at_most_one_step_above(count, smallest, per_octave):
    found = bucket(count, smallest=smallest, per_octave=per_octave)
    assert found >= max(count, smallest)
    assert found == bucket(found, smallest=smallest, per_octave=per_octave) or found == smallest
    assert found == smallest or found - count < max(1, count / per_octave)


def test_own_length_is_exact_or_a_rung_within_the_capacity():
    assert [EXACT.own_length(t, 256) for t in (1, 64, 65)] == [1, 64, 65]
    assert [COARSE.own_length(t, 256) for t in (1, 64, 65, 97, 129, 193, 256)] == [
        64,
        64,
        96,
        128,
        192,
        256,
        256,
    ]
    assert COARSE.own_length(5, 20) == 20


# Three prompts with two completions each; the places in the grid are 0 to 5.
GRID = [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("going_on", "expected"),
    [
        ([1, 1, 1, 1, 1, 1], None),
        ([1, 0, 1, 1, 0, 1], KeptRows([0, 1, 2], [0, 2, 3, 5])),
        ([0, 0, 1, 1, 0, 1], KeptRows([1, 2], [2, 3, 5])),
        ([0, 0, 0, 0, 0, 1], KeptRows([2], [5])),
    ],
)
def test_with_exact_shapes_rows_leave_one_by_one(going_on, expected):
    assert EXACT.kept_rows(GRID, list(map(bool, going_on)), 2) == expected


def test_with_exact_shapes_rows_leave_when_an_eighth_has_finished():
    grid = list(range(24))
    two, three = [i > 1 for i in grid], [i > 2 for i in grid]
    assert EXACT.kept_rows(grid, two, 4) is None
    assert EXACT.kept_rows(grid, three, 4) == KeptRows(list(range(6)), list(range(3, 24)))


def test_rows_that_stand_in_a_grid_with_gaps_leave_by_their_place():
    # Prompts 0 and 2 of the grid; row 0 is completion 1 of prompt 0.
    assert EXACT.kept_rows([1, 4, 5], [True, False, True], 2) == KeptRows([0, 2], [0, 2])


@pytest.mark.parametrize(
    ("alive", "expected"),
    [
        # Of five prompts: four are a bucket, one finished row keeps its prompt.
        ([0, 1, 2, 3, 4], None),
        ([0, 1, 3, 4], KeptRows([0, 1, 3, 4], [0, 1, 2, 3, 6, 7, 8, 9])),
        ([1, 2, 4], KeptRows([1, 2, 4], [2, 3, 4, 5, 8, 9])),
        ([3], KeptRows([3], [6, 7])),
    ],
)
def test_with_rounded_shapes_prompts_leave_whole(alive, expected):
    going_on = [i // 2 in alive and i % 2 == 0 for i in range(10)]
    assert SOON.kept_rows(list(range(10)), going_on, 2) == expected


def test_a_rung_is_filled_with_a_prompt_that_goes_on():
    # Five of eight prompts go on: the next bucket is six. With six alive prompts of eight it is six as well.
    going_on = [i // 2 in (1, 2, 4, 5, 7) for i in range(16)]
    kept = SOON.kept_rows(list(range(16)), going_on, 2)
    assert kept == KeptRows([1, 2, 4, 5, 7, 1], [2, 3, 4, 5, 8, 9, 10, 11, 14, 15, 2, 3], padding_rows=2)


@given(
    st.integers(1, 12), st.integers(1, 4), st.booleans(), st.lists(st.booleans(), min_size=48, max_size=48)
)
def test_whoever_goes_on_stays_once(num_prompts, num_generations, exact, coins):
    places = list(range(num_prompts * num_generations))
    going_on = coins[: len(places)]
    if not any(going_on):
        going_on[0] = True
    kept = Rounding(exact, 1).kept_rows(places, going_on, num_generations)
    if kept is None:
        return
    real = kept.rows[: len(kept.rows) - kept.padding_rows]
    assert len(set(real)) == len(real)
    assert {row for row in places if going_on[row]} <= set(real)
    assert {row // num_generations for row in real} <= set(kept.prompts)
    assert len(kept.rows) < len(places)
    if not exact:
        assert len(kept.rows) == len(kept.prompts) * num_generations
        assert bucket(len(kept.prompts)) == len(kept.prompts)
