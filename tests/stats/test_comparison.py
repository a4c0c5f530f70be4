"""The lines of a comparison of methods: pairing, correction, verdicts and what would settle them."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

import pytest
from scipy import stats

from pgrpo_cli.stats.comparison import Pair, Side, pairs_of
from pgrpo_cli.stats.estimates import PromptValues, Resampler, differences_of
from pgrpo_cli.stats.intervals import Bootstrap
from pgrpo_cli.stats.standardised import standardised_pair

BOOTSTRAP = Bootstrap(samples=800)


def values(
    number: int, shift: float = 0.0, groups: int = 2, prompts: int = 30, noise: float = 0.1
) -> PromptValues:
    """Prompts of unlike difficulty, the same in every run, plus a shift and the run's own noise."""
    own = random.Random(number)
    found: PromptValues = {}
    for group in range(groups):
        shared = random.Random(1000 + group)
        found[f"g{group}"] = {
            f"p{i:02d}": shared.gauss(0, 1) + shift + own.gauss(0, noise) for i in range(prompts)
        }
    return found


def side(label: str, shifts: list[float], first: int = 0, **kinds: float) -> Side:
    runs = tuple(values(first + i, shift, **kinds) for i, shift in enumerate(shifts))  # type: ignore[arg-type]
    return Side(label, tuple(range(len(shifts))), runs)


def lines(one: Side, other: Side, users: Mapping[str, str] | None = None) -> dict[str | None, Pair]:
    return {pair.preference_group: pair for pair in pairs_of(one, other, BOOTSTRAP, users)}


def test_a_method_is_no_different_from_itself() -> None:
    one = side("a", [0.3])
    for pair in lines(one, one).values():
        assert (pair.difference, pair.ci_low, pair.ci_high, pair.p_value) == (0, 0, 0, 1)
        assert (pair.verdict, pair.explanation) == ("no difference", "no difference")
    # Seeds that scatter stand for others that would have differed.
    several = side("a", [0.0, 0.3, 0.1])
    found = lines(several, several).values()
    assert {(pair.difference, pair.verdict) for pair in found} == {(0, "can't tell")}


def test_no_spread_is_no_certainty() -> None:
    def constant(label: str, value: float, prompts: int) -> Side:
        return Side(label, (0,), ({"g": {f"p{i}": value for i in range(prompts)}},))

    # The sign test: 2^(1 - prompts).
    two = lines(constant("a", 1.0, 2), constant("b", 0.5, 2))["g"]
    assert (two.verdict, two.p_value, two.needed) == ("can't tell", 0.5, None)
    assert two.explanation == "can't tell with 2 prompts, too few although all differ alike"
    six = lines(constant("a", 1.0, 6), constant("b", 0.5, 6))["g"]
    assert (six.verdict, six.p_value) == ("ahead", 2**-5)
    # Rewards that nobody has earned yet: no difference only if the completions are the same.
    none = lines(constant("a", 0.0, 12), constant("b", 0.0, 12))["g"]
    assert (none.verdict, none.p_value) == ("can't tell", 1.0)
    assert none.explanation == "can't tell with 12 prompts, whose rewards are all equal"
    same = [Side(label, (0,), constant(label, 0.0, 12).values, ({"g": ["x"]},)) for label in "ab"]
    assert lines(*same)["g"].verdict == "no difference"
    # Preference groups each of which can't tell do not become certain together, whatever their directions.
    noise = random.Random(0)
    for others in ([-0.8] * 3, [noise.gauss(0, 0.1) for _ in range(16)]):
        made = {"a": [1.0] * 3, "b": others}
        found = [
            {g: {f"{g}{i}": v * on for i, v in enumerate(own)} for g, own in made.items()} for on in (1, 0)
        ]
        macro = lines(*(Side(label, (0,), (own,)) for label, own in zip("xy", found, strict=True)))[None]
        # 2^(1 - 3); with 16 others 2^-df, df = (1/3 + 1/16)² / ((1/3)² / 2 + (1/16)² / 15) = 2.8.
        assert (macro.verdict, macro.needed) == ("can't tell", None) and macro.p_value > 0.1
        assert math.isnan(macro.ci_low) and math.isnan(macro.detectable)
        assert macro.explanation.startswith("can't tell") and "differ alike" in macro.explanation
    # Two seeds that agree in everything have no spread, either.
    seeds = [
        Side(label, (0, 1), 2 * constant(label, value, 2).values) for label, value in (("a", 1.0), ("b", 0.5))
    ]
    assert lines(*seeds)["g"].verdict == "can't tell"


def test_equal_seeds_pair_nothing() -> None:
    # Seeds differ by 1 from each other in both methods, and by 0.2 at the same seed: that is chance.
    one, other = side("a", [0.2, 1.2, 2.2]), side("b", [0.0, 1.0, 2.0], first=50)
    assert lines(one, other)[None].verdict == "can't tell"
    renamed = Side("b", (7, 8, 9), other.values[::-1])
    assert lines(one, renamed)[None].ci_low == pytest.approx(lines(one, other)[None].ci_low, abs=1e-9)


def test_a_null_result_says_what_could_have_been_seen_and_what_made_it_uncertain() -> None:
    # Seeds scatter by 1 in both methods. Variance of each mean of 3 seeds: 1 / 3, so the standard error is
    # sqrt(2 / 3) = 0.816, with 4 degrees of freedom. Student's t at 0.975 is 2.776, at 0.8 it is 0.941.
    macro = lines(side("a", [0.2, 1.2, 2.2], noise=0.0), side("b", [0.0, 1.0, 2.0], first=50, noise=0.0))[
        None
    ]
    assert macro.detectable == pytest.approx((2.776 + 0.941) * math.sqrt(2 / 3), rel=1e-3)
    assert macro.explanation.startswith("can't tell with 3 seeds, which show differences of 3 or more; ")
    assert macro.variance is not None and macro.variance.seeds == pytest.approx(1)
    assert sum(macro.variance.model_dump().values()) == pytest.approx(1)
    # With one seed per method nothing tells seeds from prompts.
    assert lines(side("a", [0.2]), side("b", [0.0], first=50))[None].variance is None


def test_standardised_each_preference_group_counts_in_its_own_spread() -> None:
    one, other = side("a", [0.3], noise=0.1), side("b", [0.0], first=50, noise=0.1)
    plain = lines(one, other)
    # g1 in units of 100 carries the macro mean; in deviations both groups count alike again.
    large = [
        Side(s.label, s.seeds, ({**s.values[0], "g1": {p: 100 * v for p, v in s.values[0]["g1"].items()}},))
        for s in (one, other)
    ]
    scales = {"g0": 0.5, "g1": 50.0}
    found = standardised_pair(*large, BOOTSTRAP, {}, scales)
    assert found is not None
    assert found.difference == pytest.approx((plain["g0"].difference + plain["g1"].difference) / 2 / 0.5)
    assert found.preference_group is None
    # Where a group without a spread differs, the others alone would hide it.
    assert standardised_pair(*large, BOOTSTRAP, {}, {"g0": 0.5, "g1": 0.0}) is None
    assert standardised_pair(*large, BOOTSTRAP, {}, {"g0": 0.0}) is None


def test_seeds_that_scatter_make_it_uncertain_and_say_how_many_would_do() -> None:
    # Many prompts tell each pair of runs apart; the three seeds do not agree.
    one, other = side("a", [0.9, 0.1, 0.3]), side("b", [0.0, 0.0, 0.0], first=50)
    macro = lines(one, other)[None]
    assert (macro.verdict, macro.seeds, macro.n) == ("can't tell", 3, 60)
    assert macro.needed is not None and 3 < macro.needed < 15
    shown = f"which show differences of {macro.detectable:.2g} or more"
    assert macro.explanation == f"can't tell with 3 seeds, {shown}; about {macro.needed} would be enough"
    single = lines(Side("a", (0,), one.values[:1]), Side("b", (0,), other.values[:1]))[None]
    assert (single.verdict, single.seeds) == ("ahead", 1)


def test_one_seed_each_is_the_paired_t_test_and_counts_prompts() -> None:
    one, other = side("a", [0.02], groups=1, prompts=12), side("b", [0.0], first=50, groups=1, prompts=12)
    pair = lines(one, other)["g0"]
    keys = sorted(one.values[0]["g0"])
    expected = stats.ttest_rel(
        [one.values[0]["g0"][k] for k in keys], [other.values[0]["g0"][k] for k in keys]
    )
    assert pair.p_value == pytest.approx(expected.pvalue, rel=1e-3)
    assert pair.effect_size == pytest.approx(expected.statistic / math.sqrt(12))
    assert pair.explanation.startswith("can't tell with 12 prompts, which show differences of ")


def test_preference_groups_are_corrected_for_their_number_and_the_macro_line_is_not() -> None:
    # Ten preference groups of which one is ahead by a little: by itself, but not as one of ten.
    theirs = values(50, groups=10, prompts=20)
    ours = {
        group: {p: v + 1e-3 * (i % 3 - 1) for i, (p, v) in enumerate(found.items())}
        for group, found in theirs.items()
    }
    ours["g0"] = {p: v + 0.01 + 0.026 * ((i % 5) - 2) / 2 for i, (p, v) in enumerate(theirs["g0"].items())}
    found = lines(Side("a", (0,), (ours,)), Side("b", (0,), (theirs,)))
    g0 = found["g0"]
    assert g0.ci_low > 0
    assert 0.0005 < g0.p_value < 0.05
    assert g0.p_adjusted == pytest.approx(10 * g0.p_value)
    assert g0.p_adjusted > 0.05
    assert g0.explanation.startswith("can't tell: ahead by itself, but not as one of 10 comparisons; about ")
    assert found[None].p_adjusted == found[None].p_value


def test_a_single_test_that_its_interval_contradicts_says_both() -> None:
    # Skewed: the bootstrap's interval excludes 0, and the t-test does not. Nothing is corrected.
    ours = {"g": {f"p{i}": v for i, v in enumerate([0.1, 1.0, 1.0, 1.7, 0.1, 0.1])}}
    theirs = {"g": dict.fromkeys(ours["g"], 0.0)}
    for pair in lines(Side("a", (0,), (ours,)), Side("b", (0,), (theirs,))).values():
        assert pair.ci_low > 0 and pair.p_value > 0.05
        expected = (
            "can't tell: ahead by its interval, but its p-value is 0.059; about 11 prompts would be enough"
        )
        assert pair.explanation == expected


def test_only_prompts_of_all_runs_count() -> None:
    one, other = side("a", [0.5, 0.5]), side("b", [0.0, 0.0], first=50)
    del one.values[1]["g0"]["p03"], other.values[0]["g0"]["p04"], other.values[1]["g1"]["p00"]
    found = lines(one, other)
    assert [pair.n for pair in found.values()] == [28, 29, 57]


def test_a_preference_group_without_a_shared_prompt_has_no_numbers() -> None:
    one, other = side("a", [0.5]), side("b", [0.0], first=50)
    other.values[0]["g1"].clear()
    found = lines(one, other)
    assert math.isnan(found["g1"].difference) and found["g1"].n == 0
    assert found["g1"].explanation == "can't tell: no prompt in common"
    assert found[None].difference == found["g0"].difference
    assert found["g0"].p_adjusted == found["g0"].p_value


def with_users(shifts: list[float]) -> tuple[Side, Side, dict[str, str]]:
    """Ten users of three prompts each; a run is better for five of them by 1, for the others by nothing."""
    one, other = side("a", shifts, groups=1), side("b", [0.0] * len(shifts), first=50, groups=1)
    users = {prompt: f"u{i // 3}" for i, prompt in enumerate(sorted(one.values[0]["g0"]))}
    better = [{"g0": {p: v + int(users[p][1:]) % 2 for p, v in run["g0"].items()}} for run in one.values]
    return Side("a", one.seeds, tuple(better)), other, users


def test_users_are_the_units_with_one_seed_as_in_an_evaluation() -> None:
    one, other, users = with_users([-0.2])
    found, by_prompt = lines(one, other, users)["g0"], lines(one, other)["g0"]
    expected = Resampler(BOOTSTRAP, users).mean(differences_of(one.values[0], other.values[0]), {"g0": 1.0})
    assert (found.difference, found.ci_low, found.ci_high) == (
        expected.mean,
        expected.ci_low,
        expected.ci_high,
    )
    assert (found.unit, found.units, found.n) == ("user", 10, 30)
    assert (by_prompt.unit, by_prompt.units) == ("prompt", 30)
    # Prompts of one user say the same: as units they tell apart what ten users do not.
    assert (found.verdict, by_prompt.verdict) == ("can't tell", "ahead")
    assert found.needed is not None and 10 < found.needed < 40
    assert found.explanation.startswith("can't tell with 10 users, which show differences of ")
    assert found.explanation.endswith(f" or more; about {found.needed} would be enough")
    assert found.p_value > 0.05 > by_prompt.p_value


def test_users_are_the_units_with_several_seeds() -> None:
    one, other, users = with_users([-0.21, -0.2, -0.19])
    found, by_prompt = lines(one, other, users), lines(one, other)
    for line in (None, "g0"):
        assert (found[line].difference, found[line].units) == (by_prompt[line].difference, 10)
        assert (found[line].verdict, by_prompt[line].verdict) == ("can't tell", "ahead")
        assert found[line].explanation.startswith("can't tell with 3 seeds, which show differences of ")
        assert found[line].explanation.endswith(" or more; more users are needed")


def test_a_single_user_gives_no_interval() -> None:
    one, other, users = with_users([-0.2, -0.1])
    for some in ((one, other), (Side("a", (0,), one.values[:1]), Side("b", (0,), other.values[:1]))):
        pair = lines(*some, dict.fromkeys(users, "u"))["g0"]
        assert math.isnan(pair.ci_low) and pair.explanation == "can't tell with a single user"


def test_a_single_prompt_gives_no_interval() -> None:
    one, other = side("a", [0.5, 0.4], prompts=1), side("b", [0.0, 0.1], first=50, prompts=1)
    pair = lines(one, other)["g0"]
    assert math.isnan(pair.ci_low) and pair.explanation == "can't tell with a single prompt"


def test_a_macro_line_without_an_interval_says_whose_prompt_is_single() -> None:
    one, other = side("a", [0.5]), side("b", [0.0], first=50)
    for run in (*one.values, *other.values):
        run["g1"] = {"p00": run["g1"]["p00"]}
    found = lines(one, other)
    assert found["g1"].explanation == "can't tell with a single prompt"
    assert found[None].explanation == "can't tell since a preference group has a single prompt"
