"""Which differences are detected, and how many seeds or prompts would do: by formula and by simulation."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import Tensor

from pgrpo_cli.stats.comparison import Side, pairs_of
from pgrpo_cli.stats.intervals import Bootstrap
from pgrpo_cli.stats.methods import Difference, Part, difference_of, p_value, seeds_interval
from pgrpo_cli.stats.power import detectable, hidden_by_units, units_needed


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_seeds_needed_do_what_they_say() -> None:
    # Seeds scatter by 1 around a difference of 1, prompts not at all: the t-test's power at N seeds is known.
    values = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64).expand(3, 40)
    found = difference_of([(values, torch.zeros(3, 40, dtype=torch.float64))])
    needed = units_needed(found, 0.05, 1000)
    assert needed is not None

    def power(seeds: int) -> float:
        edge, shift = stats.t.ppf(0.975, seeds - 1), math.sqrt(seeds)
        return float(stats.nct.sf(edge, seeds - 1, shift))

    assert power(needed) == pytest.approx(0.8, abs=0.06)
    assert power(needed - 2) < 0.8


@pytest.mark.parametrize("others", [1, 2, 5])
@pytest.mark.parametrize("mean", [0.9, 2.5])
def test_seeds_needed_are_of_each_method_however_many_there_are(others: int, mean: float) -> None:
    # Both methods scatter alike around the difference, prompts not at all: v / n for each of them.
    values, reference = drawn(5, 5, 1), torch.zeros(1, 1, dtype=torch.float64)
    values = values - values.mean() + mean
    if others > 1:
        reference = drawn(6, others, 1)
        reference = (reference - reference.mean()) / reference.std() * values.std()
    found = difference_of([(values.expand(-1, 9), reference.expand(-1, 9))])
    variance = float(values.var())

    def detected(n: int) -> bool:
        df = 2 * (n - 1)
        quantiles = stats.t.ppf(0.975, df) + stats.t.ppf(0.8, df)
        return abs(found.mean) >= quantiles * math.sqrt(2 * variance / n)

    present = min(others, 5)
    expected = next(n for n in range(max(2, present + 1), 200) if detected(n))
    assert units_needed(found, 0.05, 200) == expected
    turned = difference_of([(reference.expand(-1, 9), values.expand(-1, 9))])
    assert units_needed(turned, 0.05, 200) == expected


def test_no_number_of_seeds_makes_up_for_too_few_prompts() -> None:
    prompts = torch.tensor([[-2.0, 2.1]], dtype=torch.float64).expand(3, 2)
    seeds = torch.tensor([[0.0], [0.1], [0.2]], dtype=torch.float64)
    found = difference_of([(prompts + seeds, torch.zeros(3, 2, dtype=torch.float64))])
    assert units_needed(found, 0.05, 1000) is None


def test_prompts_needed_with_one_seed() -> None:
    # Mean 0.5, standard deviation 1: (1.96 + 0.84)^2 / 0.25 = 31.4 prompts by the normal approximation.
    values = torch.tensor([[-0.5, 1.5] * 5], dtype=torch.float64) * (0.9**0.5) + 0.5 * (1 - 0.9**0.5)
    found = difference_of([(values, torch.zeros(1, 10, dtype=torch.float64))])
    needed = units_needed(found, 0.05, 1000)
    assert needed is not None and 32 <= needed <= 36


# docs/metrics.md has these.
@pytest.mark.parametrize(
    ("seeds", "units", "of_seed", "power"), [(3, 30, 0.3, 0.72), (3, 30, 0.05, 0.74), (5, 8, 0.1, 0.75)]
)
def test_what_is_said_to_be_detectable_mostly_is(
    seeds: int, units: int, of_seed: float, power: float
) -> None:
    """Two methods with normal effects, 0.4 between units, 0.5 for the rest; the median of what is said."""
    generator, found = torch.Generator().manual_seed(0), []

    def effect(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    for _ in range(300):
        sides = [of_seed * effect(seeds, 1) + 0.5 * effect(seeds, units) for _ in range(2)]
        found.append(difference_of([(sides[0] + 0.4 * effect(1, units), sides[1])]))
    shift = statistics.median(detectable(difference, 0.05) for difference in found)
    shifted = [replace(difference, mean=difference.mean + shift) for difference in found]
    seen = [seeds_interval(one, Bootstrap(samples=100)).low > 0 and p_value(one) <= 0.05 for one in shifted]
    # The standard deviation of a share of 75 % in 300 trials is 2.5 %.
    assert statistics.fmean(seen) == pytest.approx(power, abs=0.05)


def side(label: str, runs: list[list[float]]) -> Side:
    values = tuple({"g": {f"p{i}": value for i, value in enumerate(run)}} for run in runs)
    return Side(label, tuple(range(len(runs))), values)


def test_what_is_said_of_a_difference_does_not_contradict_itself() -> None:
    # A difference of 0.4 within its interval [-0.3, 1.1] is none that would be seen, and no fewer seeds than
    # there are would be enough.
    spread = [0.0, -0.3, 0.3, 0.1, -0.3, 0.2]
    for count in (3, 5):
        shifts = [0.25 * (2 * i / (count - 1) - 1) for i in range(count)]
        ours = [[0.7 + shift + x for x in spread] for shift in shifts]
        (pair, _) = pairs_of(
            side("a", ours), side("b", [[0.3 + s] * 6 for s in shifts]), Bootstrap(samples=400)
        )
        assert pair.verdict == "can't tell"
        assert pair.detectable > pair.difference
        assert pair.needed is None or pair.needed > count


def test_two_seeds_are_too_few_to_say() -> None:
    ours, theirs = [[0.75, 0.45, 1.05], [0.65, 0.35, 0.95]], [[0.32] * 3, [0.28] * 3]
    (pair, _) = pairs_of(side("a", ours), side("b", theirs), Bootstrap(samples=400))
    assert pair.explanation == "can't tell with 2 seeds: too few to say which differences they show"
    assert pair.needed is None


def test_units_that_hide_a_difference_from_any_number_of_seeds() -> None:
    # Six prompts with a standard error of 0.1: 2.57 + 0.92 times that.
    truth = Difference(0.34, (Part(1e-6, 4, 5),), (Part(0.01, 5, 6),), (), 0.0)
    assert hidden_by_units(truth, 0.05)
    assert units_needed(truth, 0.05, 100) is None
    seen = Difference(0.36, (Part(1e-6, 4, 5),), (Part(0.01, 5, 6),), (), 0.0)
    assert not hidden_by_units(seen, 0.05)
