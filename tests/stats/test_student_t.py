"""Student's t against SciPy's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from pgrpo_cli.stats.student_t import student_t_draws, two_sided_p, welch_df, words_of


@pytest.mark.parametrize("df", [1.0, 2.0, 4.5, 30.0, 2e4])
@pytest.mark.parametrize("t", [0.0, 0.5, -2.3, 9.0])
def test_p_values_are_those_of_scipy(t: float, df: float) -> None:
    assert two_sided_p(t, df) == pytest.approx(2 * stats.t.sf(abs(t), df), rel=2e-3)


@pytest.mark.parametrize("df", [1, 2, 4, 40])
def test_draws_are_the_quantiles_in_random_order(df: int) -> None:
    draws = student_t_draws(1000, df, words_of(3)).tolist()
    expected = stats.t.ppf((np.arange(1000) + 0.5) / 1000, df)
    assert sorted(draws) == pytest.approx(expected.tolist(), rel=2e-3, abs=1e-6)
    assert draws != sorted(draws)


@pytest.mark.parametrize("seed", [0, 7, (1 << 62) + 12345])
def test_random_numbers_are_those_of_torch(seed: int) -> None:
    """Intervals that are kept from when torch made the draws are made again to the same numbers."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(37, (50, 37), generator=generator)
    order = torch.randperm(301, generator=generator)
    words = words_of(seed)
    assert (words((50, 37)) % 37).tolist() == drawn.tolist()
    ranks = np.argsort(np.argsort(student_t_draws(301, 4, words)))
    assert ranks.tolist() == order.tolist()


def test_degrees_of_freedom_of_a_sum_by_hand() -> None:
    # (1 + 1)² / (1²/2 + 1²/4) = 16/3; a part without variance has no say.
    assert welch_df([(1.0, 2), (1.0, 4), (0.0, 1)]) == pytest.approx(16 / 3)
    assert welch_df([(0.0, 3)]) == math.inf
