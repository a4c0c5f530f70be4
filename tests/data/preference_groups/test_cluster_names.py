import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.data.preference_groups.cluster_names import cluster_names, distinctive


def test_features_above_the_average_of_all_set_a_cluster_apart():
    points = np.array([[4.0, 1.0, 0.0], [2.0, 1.0, 0.0], [0.0, 1.0, 6.0]])
    first, second = distinctive(["a", "b", "c"], points, np.array([0, 0, 1]), 2)
    # Means of all: 2, 1, 2. Of the first two: 3, 1, 0. Of the last: 0, 1, 6.
    assert first == (("a", 1.0),)
    assert second == (("c", 4.0),)


def test_a_cluster_below_average_in_everything_is_told_by_what_it_lacks():
    points = np.array([[4.0, 9.0], [0.0, 1.0]])
    _, low = distinctive(["a", "b"], points, np.array([0, 1]), 2)
    assert low == (("b", -4.0), ("a", -2.0))
    assert cluster_names([low]) == ("less b, less a",)


def test_a_name_has_two_features_where_the_second_counts_too():
    assert cluster_names([(("Horror", 2.0), ("Thriller", 1.0), ("War", 0.9))]) == ("Horror, Thriller",)
    assert cluster_names([(("Horror", 2.0), ("Thriller", 0.9))]) == ("Horror",)
    assert cluster_names([()]) == ("average",)


def test_names_that_collide_are_told_apart_by_more_features():
    one = (("a", 2.0), ("b", 1.5), ("c", 1.0))
    other = (("a", 2.0), ("b", 1.5), ("d", 0.1))
    assert cluster_names([one, other]) == ("a, b, c", "a, b, d")
    assert cluster_names([one, one, one]) == ("a, b, c", "a, b, c 2", "a, b, c 3")


def test_a_feature_with_odd_letters_makes_a_name_all_the_same():
    (features,) = distinctive(["a\nb\ud800"], np.array([[1.0], [0.0]]), np.array([0, 1]), 2)[:1]
    assert cluster_names([features]) == ("a b",)


features = st.lists(st.tuples(st.sampled_from(["a", "b", "a, b", "a 2"]), st.floats(0.1, 2)), max_size=5)


@given(st.lists(features.map(tuple), max_size=6))
def test_no_two_clusters_have_one_name(found):
    names = cluster_names(found)
    assert len(set(names)) == len(names) == len(found)
    assert all(name.isprintable() and 0 < len(name) <= 200 for name in names)
