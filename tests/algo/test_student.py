"""Student's t against SciPy's."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from pgrpo_cli.algo.student import student_t_draws, two_sided_p


@pytest.mark.parametrize("df", [1.0, 2.0, 4.5, 30.0, 2e4])
@pytest.mark.parametrize("t", [0.0, 0.5, -2.3, 9.0])
def test_p_values_are_those_of_scipy(t: float, df: float) -> None:
    assert two_sided_p(t, df) == pytest.approx(2 * stats.t.sf(abs(t), df), rel=2e-3)


@pytest.mark.parametrize("df", [1, 2, 4, 40])
def test_draws_are_the_quantiles_in_random_order(df: int) -> None:
    draws = student_t_draws(1000, df, torch.Generator().manual_seed(3))
    expected = stats.t.ppf((torch.arange(1000) + 0.5) / 1000, df)
    assert draws.sort().values.tolist() == pytest.approx(expected.tolist(), rel=2e-3, abs=1e-6)
    assert draws.tolist() != draws.sort().values.tolist()
