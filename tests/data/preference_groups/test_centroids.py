import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.data.preference_groups.centroids import (
    nearest,
    nearest_group,
    profile_vector,
    tfidf_vector,
    words,
)

PROFILE = {
    "version": 1,
    "features": "profile",
    "feature_names": ["Horror", "Romance"],
    "means": [3.0, 2.0],
    "scales": [0.5, 2.0],
    "names": ["Horror", "Romance"],
    "centroids": [[1.0, -0.5], [-1.0, 0.5]],
}
TFIDF = {
    "version": 1,
    "features": "tfidf",
    "feature_names": ["love", "scary"],
    "idf": [1.0, 2.0],
    "names": ["love", "scary"],
    "centroids": [[1.0, 0.0], [0.0, 1.0]],
}


def test_profiles_are_standardised_and_what_is_unknown_is_average():
    # (4 - 3) / 0.5 = 2; (1 - 2) / 2 = -0.5.
    assert profile_vector(PROFILE, {"Horror": 4, "Romance": 1, "Other": 9}).tolist() == [2.0, -0.5]
    assert profile_vector(PROFILE, {"Horror": math.nan}).tolist() == [0.0, 0.0]


def test_words_weigh_by_count_and_rarity_and_the_length_is_one():
    # love twice: 1 + log 2; scary once: 1 · 2.
    love, scary = 1 + math.log(2), 2.0
    length = math.hypot(love, scary)
    found = tfidf_vector(TFIDF, "LOVE, love and scary_ things")
    assert found.tolist() == pytest.approx([love / length, scary / length])
    assert tfidf_vector(TFIDF, "nothing known").tolist() == [0.0, 0.0]


def test_a_character_is_a_word_where_words_are_written_without_blanks():
    assert words("我喜欢爵士乐。Jazz!") == [*"我喜欢爵士乐", "jazz"]
    assert words("Don't I like R2D2's naïve été à_la_mode?") == ["don", "like", "naïve", "été", "la", "mode"]
    assert words("재즈 음악") == ["재즈", "음악"]
    assert words("मुझे संगीत पसंद है") == ["मुझे", "संगीत", "पसंद", "है"]


def test_a_new_user_goes_to_the_nearest_cluster():
    assert nearest_group(PROFILE, profile_vector(PROFILE, {"Horror": 4.0})) == "Horror"
    assert nearest_group(PROFILE, profile_vector(PROFILE, {"Horror": 2.0})) == "Romance"
    assert nearest_group(TFIDF, tfidf_vector(TFIDF, "So scary!")) == "scary"


def test_of_two_as_near_the_larger_cluster_which_is_first_is_chosen():
    assert nearest_group(PROFILE, profile_vector(PROFILE, {})) == "Horror"
    assert nearest_group(PROFILE, [1e-12, 0.0]) == "Horror"
    assert nearest_group(PROFILE, [-1e-12, 0.0]) == "Horror"


@given(st.lists(st.lists(st.floats(-9, 9), min_size=2, max_size=2), min_size=1, max_size=9))
def test_no_centroid_is_nearer_than_the_nearest(points):
    centroids = np.array([[0.0, 0.0], [3.0, 1.0], [-2.0, 5.0]])
    for point, found in zip(points, nearest(centroids, np.array(points)), strict=True):
        distances = [math.dist(point, centroid) ** 2 for centroid in centroids]
        assert distances[found] <= min(distances) + 1e-5
