"""The personalization matrix, by hand arithmetic."""

from __future__ import annotations

import math

import pytest

from pgrpo_cli.stats.estimates import Resampler
from pgrpo_cli.stats.intervals import Bootstrap
from pgrpo_cli.stats.matrix import few_enough, matrix_of, standardised
from pgrpo_cli.stats.result_types import Matrix
from tests.support.results import rows_of

# Two completions a prompt, one prompt or two a preference group, equal base and tuned rows but for scores.
SHAPE = {"calm": {"a": [0.0, 0.0], "b": [0.0, 0.0]}, "loud": {"x": [0.0, 0.0], "y": [0.0, 0.0]}}
ROWS = rows_of("base", SHAPE) + rows_of("tuned", SHAPE)
RESAMPLER = Resampler(Bootstrap(samples=300, seed=1))

# Rows in order: base a a b b x x y y, tuned a a b b x x y y.
CALM = [0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 2, 2, 0, 0, 0, 0]
LOUD = [5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 25, 25, 15, 15]


def made(calm: list[float] = CALM, loud: list[float] = LOUD) -> Matrix:  # type: ignore[assignment]
    return matrix_of(ROWS, {"calm": calm, "loud": loud}, ["personas"], RESAMPLER)


def test_cells_centers_and_scales() -> None:
    matrix = made()
    assert matrix.preference_groups == ["calm", "loud"] and matrix.rewards == ["personas"]
    assert matrix.base == [[0, 5], [0, 5]]
    # Rows are whom the completion was made for, columns who rewards.
    assert matrix.tuned == [[2, 5], [0, 20]]
    # calm: sum 8 of 16, squares 1 + 9 + 4 + 4 = 18: variance 18/16 - 1/4. loud: 5, and 60 more in all.
    assert matrix.centers == pytest.approx([0.5, 5 + 60 / 16])
    assert matrix.scales[0] == pytest.approx(math.sqrt(18 / 16 - 0.25))
    assert matrix.scales[1] == pytest.approx(math.sqrt((2 * 400 + 2 * 100) / 16 - (60 / 16) ** 2))


def test_the_margin_is_the_diagonal_less_the_rest() -> None:
    matrix = made()
    s, t = matrix.scales
    # calm: 2/s in its own column, 5/t in the other; loud: 20/t and 0/s; centers cancel in the mean.
    expected = ((2 / s - 5 / t) + (20 / t - 0 / s)) / 2
    assert matrix.margin.tuned.mean == pytest.approx(expected)
    assert matrix.margin.base.mean == pytest.approx(0)
    assert matrix.margin.difference.mean == pytest.approx(expected)
    # Both prompts of calm have the same margin, by chance perhaps; a little more for one of them varies.
    assert matrix.margin.tuned.n == 4 and math.isnan(matrix.margin.tuned.ci_low)
    varying = made([v + (i == 10) for i, v in enumerate(CALM)]).margin.tuned
    assert varying.ci_low < varying.mean < varying.ci_high
    z = standardised(matrix, "tuned")
    by_column = ((z[0][0] - z[1][0]) + (z[1][1] - z[0][1])) / 2
    assert matrix.margin.tuned.mean == pytest.approx(by_column)


def test_a_reward_that_likes_everybodys_answers_alike_has_no_margin() -> None:
    same = [float(i % 3) for i in range(16)]
    assert made(same, [10 * v + 3 for v in same]).margin.difference.mean == pytest.approx(0)


def test_units_do_not_matter() -> None:
    assert made(CALM, [7 * v - 2 for v in LOUD]).margin.tuned.mean == pytest.approx(  # type: ignore[arg-type]
        made().margin.tuned.mean
    )


def test_a_column_without_spread_says_nothing() -> None:
    matrix = made(loud=[4.0] * 16)
    assert standardised(matrix, "tuned")[0][1] == 0
    assert matrix.margin.tuned.mean == pytest.approx((2 - 0) / matrix.scales[0] / 2)


def test_missing_scores_are_left_out() -> None:
    matrix = made([math.nan if i == 8 else v for i, v in enumerate(CALM)])
    # Prompt a keeps its 3: (3 + 2) / 2.
    assert matrix.tuned[0][0] == 2.5
    gone = made([math.nan] * 16)
    assert math.isnan(gone.tuned[0][0]) and math.isnan(gone.margin.tuned.mean)


def test_of_many_rows_the_first_prompts_of_each_group_are_taken() -> None:
    shape = {g: {f"{g}{i}": [0.0, 0.0, 0.0] for i in range(n)} for g, n in {"a": 10, "b": 3}.items()}
    rows = rows_of("base", shape) + rows_of("tuned", shape)
    assert few_enough(rows, 2, 2 * len(rows)) == rows
    # 32 scores: 32 / (2 models · 2² groups) = 4 prompts a group, of which b has 3.
    found = few_enough(rows, 2, 32)
    assert {row.completion_index for row in found} == {0}
    assert [row.prompt_id for row in found if row.which == "base"] == [
        "a0",
        "a1",
        "a2",
        "a3",
        "b0",
        "b1",
        "b2",
    ]
    assert len(found) == 14
    assert len(few_enough(rows, 2, 1)) == 2 * 2 * 2
