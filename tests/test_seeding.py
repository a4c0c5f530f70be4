"""Seeds as functions of what they are for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.seeding import derive_seed, recorded_seed


@given(st.integers(), st.lists(st.text(max_size=20) | st.integers()))
def test_a_seed_of_a_record_is_exact_as_a_double(seed: int, purpose: list[str | int]) -> None:
    found = recorded_seed(seed, *purpose)
    assert 0 <= found < 2**53
    assert int(float(found)) == found
    assert found == derive_seed(seed, *purpose) >> 10


def test_an_argument_that_differs_makes_another_seed() -> None:
    seeds = [derive_seed(0, "a"), derive_seed(1, "a"), derive_seed(0, "a", 1), derive_seed(0, "a", "1")]
    assert len({*seeds, derive_seed(0, "ab"), derive_seed(0, "a", "b")}) == 6
