import numpy as np
import pytest

from pgrpo_cli.data.preference_groups.kmeans import _shuffled, centroids_of, distinct, one_thread, search


def blobs(centres, size, spread=0.3, seed=0):
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(centre, spread, (size, len(centre))) for centre in centres])


def found(points, counts=range(2, 6), **options):
    with one_thread():
        return search(points, list(counts), **{"n_init": 3, "seed": 0, "unit": False, **options})


def test_as_many_clusters_are_chosen_as_there_are():
    result = found(blobs([(0, 0), (9, 0), (0, 9)], 15))
    assert result.count == 3
    assert max(result.silhouettes.values()) == result.silhouettes[3] > 0.8
    assert result.better_than_chance
    assert result.stability == 1.0


def test_features_that_know_nothing_of_each_other_are_no_better_than_chance():
    # Independent columns: shuffling them draws another sample of the same.
    result = found(np.random.default_rng(1).normal(size=(60, 4)))
    assert not result.better_than_chance
    assert len(result.shuffled) == 19


def test_chance_looks_for_its_best_number_of_clusters_too():
    points = np.random.default_rng(2).normal(size=(40, 3))
    alone = [found(points, [count]).shuffled for count in (2, 3, 4)]
    # The best of the three a copy.
    assert found(points, [2, 3, 4]).shuffled == tuple(max(copies) for copies in zip(*alone, strict=True))


def test_a_shuffled_copy_keeps_the_values_of_each_feature_and_the_length_of_unit_points():
    points = blobs([(1, 0, 2), (0, 9, 1)], 10)
    copy, other = _shuffled(points, 0, 0, False), _shuffled(points, 0, 1, False)
    assert np.array_equal(np.sort(copy, axis=0), np.sort(points, axis=0))
    assert not np.array_equal(copy, points)
    assert not np.array_equal(copy, other)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    assert np.linalg.norm(_shuffled(unit, 0, 0, True), axis=1) == pytest.approx(np.ones(20))
    assert not _shuffled(np.zeros((3, 2)), 0, 0, True).any()


def test_clusters_of_noise_depend_on_the_seed():
    assert found(np.random.default_rng(3).normal(size=(80, 8)), [5], n_init=1).stability < 0.6


def test_of_many_points_some_are_searched(monkeypatch):
    monkeypatch.setattr("pgrpo_cli.data.preference_groups.kmeans.MAX_SEARCHED", 30)
    assert found(blobs([(0, 0), (9, 0)], 100)).count == 2


def test_the_largest_cluster_comes_first_and_centroids_are_means():
    points = np.array([[0.0, 0.0], [0.0, 1.0], [9.0, 0.0], [9.0, 1.0], [9.0, 2.0]])
    with one_thread():
        centroids, labels = centroids_of(points, 2, n_init=3, seed=0)
    assert centroids.tolist() == [[9.0, 1.0], [0.0, 0.5]]
    assert labels.tolist() == [1, 1, 0, 0, 0]


def test_different_points_are_counted_as_they_are_stored():
    assert distinct(np.array([[0.0, 1.0], [0.0, 1.0 + 1e-9], [1.0, 0.0]])) == 2


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_seed_finds_the_same(seed):
    points = np.random.default_rng(4).normal(size=(50, 3))
    assert found(points, seed=seed) == found(points, seed=seed)
