import math
import random
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.errors import RecipeError, RewardError
from pgrpo_cli.recipe.reward_text import ChrfReward, RougeReward
from pgrpo_cli.rewards.base import BuildContext, Completion
from pgrpo_cli.rewards.similarity import build_chrf, build_rouge, longest_common_subsequence, rouge_l

CONTEXT = BuildContext(Path(), allow_code=False)
ROUGE = build_rouge(RougeReward(), CONTEXT)
CHRF = build_chrf(ChrfReward(), CONTEXT)


def scored(text, reference, function=ROUGE, **columns):
    return function([Completion("p1", "fans", "", text, {"reference": reference, **columns})])[0]


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        ("the cat sat", "The cat sat!", 1.0),
        # "police the gunman" of 4 and 4 words: 2 * 2 / 8 and 2 * 3 / 8 (Lin 2004, section 3).
        ("police kill the gunman", "police killed the gunman", 2 * 3 / 8),
        ("the gunman kill police", "police killed the gunman", 2 * 2 / 8),
        ("a b", "a b c d e f", 2 * 2 / 8),
        ("", "a", 0.0),
        ("x", "a", 0.0),
        ("我喜欢猫", "我喜欢狗", 2 * 3 / 8),
        ("für Ärzte", "FÜR ÄRZTE", 1.0),
        ("für Ärzte", unicodedata.normalize("NFD", "für Ärzte"), 1.0),
        ("लड़का दौड़ता है", "लड़की दौड़ती है", 2 * 1 / 6),
    ],
)
def test_rouge_by_hand(text, reference, expected):
    assert scored(text, reference).parts["similarity"] == pytest.approx(expected)


def test_a_reference_without_a_word_gives_no_reward():
    score = scored("good", "👍")
    assert math.isnan(score.value)
    assert math.isnan(score.parts["similarity"])


def test_rouge_equals_the_reference_implementation():
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    generator = random.Random(0)
    words = ["the", "cat", "Sat", "on,", "a", "mat.", "and", "sang", "it's", "3", "songs!"]
    for _ in range(200):
        text, reference = (" ".join(generator.choices(words, k=generator.randint(1, 12))) for _ in range(2))
        expected = scorer.score(reference, text)["rougeL"].fmeasure
        assert rouge_l(text, reference) == pytest.approx(expected)


@given(st.lists(st.sampled_from("abc"), max_size=9), st.lists(st.sampled_from("abc"), max_size=9))
def test_the_longest_common_subsequence_equals_the_textbook_recurrence(a, b):
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a, start=1):
        for j, y in enumerate(b, start=1):
            table[i][j] = table[i - 1][j - 1] + 1 if x == y else max(table[i - 1][j], table[i][j - 1])
    assert longest_common_subsequence(a, b) == table[-1][-1]


def test_chrf_by_hand():
    # chrF of "ab" for "abc", blanks removed: n-grams up to 2 exist in both. Unigrams: precision 2/2, recall
    # 2/3; bigrams: 1/1 and 1/2. Means 1 and 7/12; F2 = 5 * 1 * 7/12 / (4 * 1 + 7/12) = 35/55.
    assert scored("ab", "abc", CHRF).value == pytest.approx(35 / 55)
    assert scored("abc", "a b c", CHRF).value == pytest.approx(1)
    assert scored("", "abc", CHRF).value == 0


def test_the_nearest_of_several_references_counts():
    assert scored("a b", ["x y", "a c", "a b"]).value == 1
    assert scored("a c", ["👍", "a b"]).value == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("scale", "rating", "expected"),
    # The similarity of "a b c d" and "a b c" is 2 * 3 / 7 = 6/7.
    [
        ({}, True, 6 / 7),
        ({}, False, 1 / 7),
        ({}, 1, 6 / 7),
        ({}, 0.5, 0.5),
        ({"rating_min": 1, "rating_max": 5}, 5, 6 / 7),
        ({"rating_min": 1, "rating_max": 5}, 1, 1 / 7),
        # 4 of 1 to 5 is half way from indifferent to best: (1 + 0.5 * 5/7) / 2
        ({"rating_min": 1, "rating_max": 5}, 4, (1 + 0.5 * 5 / 7) / 2),
        # As CSV has them.
        ({}, "True", 6 / 7),
        ({}, " false", 1 / 7),
        ({}, "0.5", 0.5),
        ({"rating_min": 1, "rating_max": 5}, "4", (1 + 0.5 * 5 / 7) / 2),
    ],
)
def test_a_rating_turns_the_similarity(scale, rating, expected):
    function = build_rouge(RougeReward(rating_column="stars", **scale), CONTEXT)
    score = scored("a b c d", "a b c", function, stars=rating)
    assert score.value == pytest.approx(expected)
    assert score.parts == {"value": score.value, "similarity": pytest.approx(6 / 7)}


@pytest.mark.parametrize("text", ["", " ", "..."])
def test_nothing_is_no_better_than_what_was_disliked(text):
    function = build_rouge(RougeReward(rating_column="liked"), CONTEXT)
    # 1 - 0 for anything else that is unlike it.
    assert scored("d e f", "a b c", function, liked=False).value == 1.0
    assert scored(text, "a b c", function, liked=False).parts == {"value": 0.0, "similarity": 0.0}
    assert math.isnan(scored(text, "...", function, liked=False).value)


@pytest.mark.parametrize("rating", [6, 0, "6", "good", "nan", "false", [5], 10**400])
def test_a_rating_off_the_scale_is_an_error(rating):
    function = build_rouge(RougeReward(rating_column="stars", rating_min=1, rating_max=5), CONTEXT)
    with pytest.raises(RewardError, match=r"column 'stars' is .*, no rating from 1 to 5; prompt p1"):
        scored("a", "a", function, stars=rating)


def test_a_missing_reference_or_rating_is_an_error_that_names_the_prompt():
    with pytest.raises(RewardError, match=r"'rouge': the data lack column 'reference' .*prompt p1") as caught:
        ROUGE([Completion("p0", "fans", "", "a", {"reference": "a"}), Completion("p1", "fans", "", "a")])
    assert "`reference_column`" in caught.value.remedy
    with pytest.raises(RewardError, match=r"lack column 'stars' \(columns there: 'reference'\)"):
        scored("a", "a", build_rouge(RougeReward(rating_column="stars"), CONTEXT))


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(RecipeError, match="'chrf' needs the package sacrebleu") as caught:
        build_chrf(ChrfReward(), CONTEXT)
    assert caught.value.remedy == "pip install 'pgrpo-cli[similarity]'"


@given(st.text(max_size=60), st.text(min_size=1, max_size=60).filter(str.strip), st.floats(0, 1))
def test_values_stay_in_the_declared_range(text, reference, rating):
    for build, section in ((build_rouge, RougeReward), (build_chrf, ChrfReward)):
        function = build(section(rating_column="rating"), CONTEXT)
        score = scored(text, reference, function, rating=rating)
        low, high = function.value_range
        assert math.isnan(score.value) or low <= score.value <= high
        assert tuple(score.parts) == function.parts
        assert score.value == score.parts["value"] or math.isnan(score.value)
