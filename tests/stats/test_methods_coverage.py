"""How long intervals of differences are, over how long they should be to cover at their nominal rate.

Values are normal: effects of the seed, of the user and of the prompt, and noise. Then the mean of a draw is
independent of everything that its interval is made of. So values are drawn, and for each draw the
probability is computed that its interval, around a mean N(0, sd²), holds 0: nothing is lost to a yes or no.
The effects of seeds, on which lengths depend most, are a Latin hypercube. Some hundred draws then tell
lengths within 2 %, where counting hits would take ten thousands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from pgrpo_cli.stats.intervals import Bootstrap, Interval
from pgrpo_cli.stats.methods import difference_of, p_value, seeds_interval
from tests.support.intervals import stratified_interval

DRAWS = 400
BOOTSTRAP = Bootstrap(samples=400, confidence=0.9)
Strata = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Design:
    """Numbers, and standard deviations of effects. `others`: seeds of an unpaired reference."""

    seeds: int = 3
    others: int | None = None
    groups: int = 2
    users: int = 30
    prompts_a_user: int = 1
    of_seed: float = 0.3
    of_user: float = 0.4
    of_prompt: float = 0.0
    noise: float = 0.5

    @property
    def units(self) -> list[Hashable]:
        return [user for user in range(self.users) for _ in range(self.prompts_a_user)]

    @property
    def sd(self) -> float:
        """Of the mean difference."""
        a_run = 1 / self.seeds + (1 / self.others if self.others else 0)
        prompts = self.users * self.prompts_a_user
        a_group = self.of_user**2 / self.users + (self.of_prompt**2 + self.noise**2 * a_run) / prompts
        return math.sqrt(self.of_seed**2 * a_run + a_group / self.groups)


USERS = Design(groups=1, users=24, prompts_a_user=4, of_seed=0.1, of_user=1.0, of_prompt=0.5, noise=0.3)


def by_seed(design: Design, seeds: int, generator: torch.Generator) -> Tensor:
    """[draws, groups, seeds, prompts]: the effect of the seed, without its mean over seeds, and noise."""
    shape = (DRAWS, design.groups, seeds, len(design.units))
    noise = design.noise * torch.randn(shape, generator=generator, dtype=torch.float64)
    if seeds == 1:
        return noise
    order = torch.stack([torch.randperm(DRAWS, generator=generator) for _ in range(seeds - 1)], dim=1)
    normal = torch.special.ndtri((order.double() + 0.5) / DRAWS)
    contrasts = torch.linalg.qr(torch.eye(seeds, dtype=torch.float64) - 1 / seeds)[0][:, : seeds - 1]
    return noise + (design.of_seed * normal @ contrasts.T)[:, None, :, None]


def drawn(design: Design) -> list[Strata]:
    """Draws of values and reference, by preference group."""
    generator = torch.Generator().manual_seed(1)
    ours = by_seed(design, design.seeds, generator)
    theirs = by_seed(design, design.others, generator) if design.others else torch.zeros_like(ours)
    shape = (DRAWS, design.groups, 1, design.users)
    of_user = design.of_user * torch.randn(shape, generator=generator, dtype=torch.float64)
    ours += of_user.repeat_interleave(design.prompts_a_user, dim=3)
    of_prompt = torch.randn(ours[:, :, :1].shape, generator=generator, dtype=torch.float64)
    ours += design.of_prompt * of_prompt
    return [list(zip(*draw, strict=True)) for draw in zip(ours, theirs, strict=True)]


def over_seeds(design: Design, strata: Strata, units: list[Hashable] | None) -> Interval:
    alike = [units] * design.groups
    return seeds_interval(difference_of(strata, units=alike), BOOTSTRAP)


def over_units(design: Design, strata: Strata, units: list[Hashable] | None) -> Interval:
    """With one seed each."""
    return stratified_interval([v[0] - r[0] for v, r in strata], BOOTSTRAP, units=[units] * design.groups)


Made = Callable[[Design, Strata, list[Hashable] | None], Interval]


def measured(
    made: Made, design: Design, *, by_user: bool = True, stretch: float = 1.0
) -> tuple[float, float]:
    """Coverage, and length over the length that covers at the nominal rate. `stretch`: times the interval."""
    found = [made(design, strata, design.units if by_user else None) for strata in drawn(design)]
    ends = torch.tensor([(i.low - i.mean, i.high - i.mean) for i in found], dtype=torch.float64)
    low, high = stretch * ends.T / design.sd

    def coverage(factor: float) -> float:
        return float((torch.special.ndtr(-factor * low) - torch.special.ndtr(-factor * high)).mean())

    least, most = 0.05, 20.0
    for _ in range(40):
        middle = math.sqrt(least * most)
        least, most = (middle, most) if coverage(middle) < BOOTSTRAP.confidence else (least, middle)
    return coverage(1.0), 1 / least


ONE_SEED = Design(seeds=1, groups=1, of_seed=0.0)
# docs/metrics.md has the lengths of several seeds.
LENGTHS = [
    (over_units, replace(ONE_SEED, users=8), 0.98),
    (over_units, replace(ONE_SEED, users=60), 1.0),
    (over_units, replace(ONE_SEED, users=8, groups=7), 1.0),
    (over_units, replace(USERS, seeds=1, users=12, of_seed=0.0), 1.01),
    (over_seeds, Design(seeds=2), 1.08),
    (over_seeds, Design(seeds=3), 1.08),
    (over_seeds, Design(seeds=5), 1.03),
    (over_seeds, Design(seeds=2, of_seed=0.0), 1.4),
    (over_seeds, Design(seeds=3, of_seed=0.0), 1.17),
    (over_seeds, Design(seeds=5, of_seed=0.0), 1.05),
    (over_seeds, Design(seeds=3, users=8), 1.13),
    (over_seeds, Design(seeds=5, users=8), 1.07),
    (over_seeds, Design(seeds=2, others=2), 1.33),
    (over_seeds, Design(seeds=3, others=3), 1.12),
    (over_seeds, Design(seeds=5, others=5), 1.02),
    (over_seeds, Design(seeds=2, others=5), 0.99),
    (over_seeds, Design(seeds=2, others=10), 1.0),
    (over_seeds, Design(seeds=3, others=10), 0.99),
]


@pytest.mark.parametrize(("made", "design", "expected"), LENGTHS)
def test_intervals_are_as_long_as_documented(made: Made, design: Design, expected: float) -> None:
    # What is a tenth longer or shorter lies outside: lengths are proportional to what they are measured of.
    assert measured(made, design)[1] == pytest.approx(expected, abs=0.04)


def test_an_interval_a_tenth_too_short_or_too_long_is_seen() -> None:
    made, design, expected = LENGTHS[0]
    for stretch in (0.9, 1.1):
        assert measured(made, design, stretch=stretch)[1] == pytest.approx(stretch * expected, abs=0.02)


@pytest.mark.parametrize("design", [Design(seeds=2), Design(), Design(others=4), replace(USERS, of_seed=0.3)])
def test_p_values_agree_with_intervals(design: Design) -> None:
    # Where the mean lies at the end of the interval around 0, p is 1 less the confidence. An end that is a
    # tenth off is 0.02 or more.
    units = [design.units] * design.groups
    for strata in drawn(design)[:3]:
        found = difference_of(strata, units=units)
        interval = seeds_interval(found, replace(BOOTSTRAP, samples=10_000))
        for end in (interval.low, interval.high):
            assert p_value(replace(found, mean=end - found.mean)) == pytest.approx(0.1, abs=0.012)


@pytest.mark.parametrize(("made", "seeds"), [(over_units, 1), (over_seeds, 5)])
def test_prompts_of_a_user_are_one_unit(made: Made, seeds: int) -> None:
    design = replace(USERS, seeds=seeds, of_seed=USERS.of_seed if seeds > 1 else 0.0)
    assert measured(made, design)[0] == pytest.approx(0.9, abs=0.015)
    # Prompts of one user say nearly the same, four times: a nominal 90 % misses the truth in two of five.
    assert measured(made, design, by_user=False)[0] < 0.68


def test_users_of_unlike_size_are_units_too() -> None:
    # The mean over prompts is then no longer independent of the spread, so hits are counted: of 400 draws a
    # nominal 90 % is seen with a standard error of 1.5 %.
    generator = torch.Generator().manual_seed(3)
    held = {True: 0, False: 0}
    for _ in range(400):
        sizes = torch.randint(1, 7, (24,), generator=generator)
        units = torch.repeat_interleave(torch.arange(24), sizes)
        of_user = torch.randn(24, generator=generator, dtype=torch.float64)[units]
        values = of_user + 0.3 * torch.randn(3, len(units), generator=generator, dtype=torch.float64)
        for by_user in held:
            found = over_seeds(USERS, [(values, 0 * values)], units.tolist() if by_user else None)
            held[by_user] += found.low <= 0 <= found.high
    assert 0.86 <= held[True] / 400 <= 0.94
    assert held[False] / 400 < 0.68
