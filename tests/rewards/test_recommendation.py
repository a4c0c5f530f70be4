from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.errors import RewardError
from pgrpo_cli.recipe.reward_text import RecommendationReward
from pgrpo_cli.rewards.base import BuildContext, Completion, WeighsParts
from pgrpo_cli.rewards.recommendation import build_recommendation

CONTEXT = BuildContext(Path(), allow_code=False)
CANDIDATES = ["Heat (1995)", "Alien (1979)", "Aliens (1986)", "It (2017)", "Ronin (1998)"]
AMONG = {"candidates_column": "candidates", "candidate_weight": 0.5}


def built(**section):
    return build_recommendation(RecommendationReward(**section), CONTEXT)


def scored(text, target="Heat (1995)", *, function=None, **columns):
    function = function or built(**(AMONG if "candidates" in columns else {}))
    return function([Completion("p1", "fans", "", text, {"target": target, **columns})])[0]


@pytest.mark.parametrize(
    ("text", "parts", "value"),
    [
        ("Heat", (1, 1, 1), 0.7 + 0.3 + 0.5),
        ("Try Alien, then Heat.", (1, 1 / 2, 1), 0.7 + 0.15 + 0.5),
        # Named twice, Alien still is one title.
        ("Alien! Alien! Aliens, heat (1995)", (1, 1 / 3, 1), 0.7 + 0.1 + 0.5),
        ("Ronin", (0, 0, 1), 0.5),
        ("Something else", (0, 0, 0), 0),
        ("Heat (1986)", (0, 0, 0), 0),
        ("", (0, 0, 0), 0),
        # It is what "it" is not: four titles before Heat with it, three without.
        ("Alien, Aliens and Ronin: watch it after Heat", (1, 1 / 4, 1), 0.7 + 0.075 + 0.5),
    ],
)
def test_among_candidates(text, parts, value):
    score = scored(text, candidates=CANDIDATES)
    assert score.parts == pytest.approx(dict(zip(("hit", "rank", "candidate"), parts, strict=True)))
    assert score.value == pytest.approx(value)


def test_only_the_first_k_titles_count():
    text = "Alien, Aliens, Heat"
    assert scored(text, function=built(k=3, **AMONG), candidates=CANDIDATES).parts["hit"] == 1
    assert scored(text, function=built(k=2, **AMONG), candidates=CANDIDATES).parts == {
        "hit": 0.0, "rank": 0.0, "candidate": 1.0
    }  # fmt: skip


def test_naming_every_candidate_is_worth_less_than_choosing():
    everything = scored(", ".join(sorted(CANDIDATES, reverse=True)), candidates=CANDIDATES)
    assert everything.value < scored("Heat", candidates=CANDIDATES).value


@pytest.mark.parametrize(
    ("text", "hit", "rank"),
    [
        ("I recommend Heat.", 1, 1),
        ("Heat, with Alien and Ronin", 1, 1),
        ("Alien, Ronin, or Heat", 1, 1 / 3),
        ("- Alien\n- Heat, a film\n- Ronin", 1, 1 / 2),
        ("“Heat Wave”", 0, 0),
        ("1. a\n2. b\n3. c\n4. d\n5. e\n6. Heat", 0, 0),
    ],
)
def test_without_candidates(text, hit, rank):
    score = scored(text)
    assert (score.parts["hit"], score.parts["rank"]) == (hit, pytest.approx(rank))
    assert score.value == pytest.approx(0.7 * hit + 0.3 * rank)
    assert score.parts["candidate"] != score.parts["candidate"]  # NaN: nothing is known of it


def test_any_of_several_targets_will_do_and_the_first_one_named_counts():
    assert scored("Alien, then Heat", ["Heat", "Ronin"]).parts["rank"] == 1 / 2
    assert scored("Ronin, then Heat", ["Heat", "Ronin"]).parts["rank"] == 1


def test_a_target_need_not_be_a_candidate():
    assert scored("Jaws", "Jaws (1975)", candidates=CANDIDATES).parts["hit"] == 1


def test_years_are_ignored_on_demand():
    assert scored("Heat (1986)", function=built(ignore_year=True)).parts["hit"] == 1


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (
            {},
            r"'recommendation': the data lack column 'target' \(columns there: none\); prompt p1 of .*'fans'",
        ),
        ({"target": None, "other": 1}, r"column 'target' is null in this row; prompt p1"),
        ({"target": 7}, r"column 'target' is 7, no text and no list of texts"),
        ({"target": []}, r"column 'target' is \[\], no text"),
        ({"target": ["Heat", ""]}, r"column 'target' is \['Heat', ''\], no text"),
        ({"target": "???"}, r"'\?\?\?' in column 'target' cannot be looked for"),
        ({"target": "Heat"}, r"lack column 'candidates' .*prompt p1"),
        (
            {"target": "Heat", "candidates": "Alien|Heat"},
            r"'candidates' is the text 'Alien\|Heat', no list of",
        ),
    ],
)
def test_what_is_missing_is_an_error_and_never_0(columns, said):
    with pytest.raises(RewardError, match=said):
        built(**AMONG)([Completion("p1", "fans", "", "Heat", columns)])


@given(
    st.text(max_size=200)
    | st.lists(st.sampled_from([*CANDIDATES, "it", "Heat", ", ", "\n- ", "(1995)", "“", "”"])).map(" ".join)
)
def test_the_value_is_the_sum_of_the_parts_and_in_the_declared_range(text):
    for function in (built(), built(hit_weight=0.2, rank_weight=2, **AMONG)):
        assert isinstance(function, WeighsParts)
        low, high = function.value_range
        score = scored(text, function=function, candidates=CANDIDATES)
        assert low <= score.value <= high
        assert tuple(score.parts) == function.parts == RecommendationReward.parts
        weights = {part: weight for part, weight in function.part_weights.items() if weight}
        assert score.value == pytest.approx(sum(weights[part] * score.parts[part] for part in weights))
