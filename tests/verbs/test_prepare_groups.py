"""`prepare` where preference groups and halves go by users."""

import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace

import pytest

from pgrpo_cli.data.preference_groups.centroids import nearest_group, profile_vector
from pgrpo_cli.data.prepared import load_prepared, read_manifest
from pgrpo_cli.data.records import UserProfile
from pgrpo_cli.errors import DataError, RunError
from pgrpo_cli.verbs.prepare import prepare_data
from tests.support.tastes import PROMPTS, USERS, give, tastes
from tests.support.tokenizer import byte_tokenizer
from tests.verbs.test_prepare import contents, recipe

CLUSTER = {"type": "cluster", "n_init": 2, "counts": [2, 3]}


def prepared(folder, groups, *, seed=0, **data):
    made = recipe(seed=seed, preference_groups=groups, **data)
    return prepare_data(made, folder, folder.parent, byte_tokenizer())


def halves(run_dir):
    return {half: load_prepared(run_dir, half) for half in ("train", "eval")}


@pytest.fixture
def run_dir(tmp_path, monkeypatch):
    give(monkeypatch, tastes())
    return tmp_path / "run"


@pytest.mark.parametrize("split_by", ["text", "user", "time"])
def test_clusters_are_fitted_to_the_training_half_and_place_everyone(run_dir, split_by):
    report = prepared(run_dir, CLUSTER, split_by=split_by, eval_fraction=0.2)
    sizes = {group.preference_group: group.users for group in report.groups}
    assert sorted(sizes.values()) == sorted(USERS.values())
    by_taste = defaultdict(set)
    for prompt in (prompt for half in halves(run_dir).values() for prompt in half):
        by_taste[prompt.columns["taste"]].add(prompt.preference_group)
    assert {taste: len(names) for taste, names in by_taste.items()} == {"horror": 1, "romance": 1}
    assert set(next(iter(by_taste["horror"])).split(", ")) == {"Horror", "Thriller"}
    assert report.train_prompts + report.eval_prompts == sum(USERS.values()) * PROMPTS
    assert report.eval_prompts == sum(USERS.values()) * PROMPTS * 0.2
    fitted = 30 - 6 if split_by == "user" else 30
    assert report.clusters["users"] == read_manifest(run_dir)["clusters"]["users"] == fitted
    assert report.warnings == ()


def test_a_held_out_user_is_in_one_cluster_whatever_a_single_prompt_says(tmp_path, monkeypatch):
    data = tastes(held_out=("horror-0",))
    messages = ({"role": "user", "content": "A romance fan asks, for once"},)
    give(monkeypatch, replace(data, eval=(replace(data.eval[0], messages=messages), *data.eval[1:])))
    prepared(tmp_path / "run", {**CLUSTER, "features": "tfidf", "count": 2})
    found = halves(tmp_path / "run")
    (group,) = {prompt.preference_group for prompt in found["eval"]}
    assert {p.columns["taste"] for p in found["train"] if p.preference_group == group} == {"horror"}


def stored_clusters(run_dir):
    return json.loads((run_dir / "data" / "preference_groups.json").read_text())


def test_what_users_say_in_held_out_prompts_has_no_say(tmp_path, monkeypatch):
    data = tastes(held_out=("horror-0", "romance-0"))
    give(monkeypatch, data)
    prepared(tmp_path / "one", CLUSTER)
    strange = {
        **data.profiles,
        "horror-0": UserProfile({"War": 1e6}),
        "romance-0": UserProfile({"War": -1e6}),
    }
    give(monkeypatch, replace(data, profiles=strange))
    prepared(tmp_path / "two", CLUSTER)
    assert stored_clusters(tmp_path / "one") == stored_clusters(tmp_path / "two")


def test_new_users_are_placed_by_what_is_stored(run_dir):
    prepared(run_dir, CLUSTER)
    stored = stored_clusters(run_dir)
    groups = {prompt.columns["taste"]: prompt.preference_group for prompt in halves(run_dir)["train"]}
    assert nearest_group(stored, profile_vector(stored, {"Horror": 5.0, "Drama": 1.0})) == groups["horror"]
    assert nearest_group(stored, profile_vector(stored, {"Romance": 5.0})) == groups["romance"]
    assert "preference_groups.json" in read_manifest(run_dir)["files"]


def test_another_process_with_more_threads_writes_the_same_bytes(run_dir):
    sections = {features: {**CLUSTER, "features": features} for features in ("profile", "tfidf")}
    for features, section in sections.items():
        prepared(run_dir.parent / "one" / features, section)
    code = f"""
import sys; from pathlib import Path; import pytest
from tests.support.tastes import give, tastes
from tests.verbs.test_prepare_groups import prepared
with pytest.MonkeyPatch.context() as patch:
    give(patch, tastes())
    for features, section in {sections!r}.items():
        prepared(Path(sys.argv[1]) / features, section)
"""
    other = run_dir.parent / "other"
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code, str(other)], check=True, env=environment)
    assert contents(run_dir.parent / "one") == contents(other)


def test_clusters_are_part_of_what_checkpoints_were_trained_on(run_dir):
    prepared(run_dir, CLUSTER)
    (run_dir / "checkpoints" / "step-000010").mkdir(parents=True)
    assert prepared(run_dir, CLUSTER).unchanged
    with pytest.raises(RunError, match="trained on other data"):
        prepared(run_dir, {**CLUSTER, "count": 3})


def test_bins_and_expressions_name_groups_of_rows(run_dir):
    report = prepared(run_dir, {"type": "bins", "column": "age", "edges": [20]})
    # Ages 10 to 27 and 10 to 21: ten of each taste are under 20.
    assert {group.preference_group: group.users for group in report.groups} == {
        "age < 20": 20,
        "age >= 20": 10,
    }
    report = prepared(run_dir, {"type": "expression", "expression": "taste if age < 20 else 'old'"})
    assert {group.preference_group: group.users for group in report.groups} == {
        "horror": 10, "romance": 10, "old": 10,
    }  # fmt: skip
    assert not (run_dir / "data" / "preference_groups.json").exists()


def test_a_group_a_user(run_dir):
    report = prepared(run_dir, {"type": "user"}, split_by="time", eval_fraction=0.2)
    assert Counter((g.train_prompts, g.eval_prompts) for g in report.groups) == {(4, 1): 30}
    assert any("30 of 30 preference groups have fewer than 16" in warning for warning in report.warnings)


def test_held_out_users_without_a_trained_group_are_left_out(tmp_path, monkeypatch):
    give(monkeypatch, tastes(held_out=("horror-0",)))
    report = prepared(tmp_path / "run", {"type": "user"})
    assert report.left_out == {"preference group without training prompts": PROMPTS}
    assert report.eval_prompts == 0
    rows = [json.loads(line) for line in report.rejected_path.read_text().splitlines()]
    assert {row["preference_group"] for row in rows} == {"horror-0"}


def test_a_source_with_its_own_halves_says_that_split_by_has_no_effect(tmp_path, monkeypatch):
    give(monkeypatch, tastes(held_out=("horror-0",)))
    report = prepared(tmp_path / "run", {"type": "random", "count": 1}, split_by="time")
    assert any("data.split_by 'time' has no effect" in warning for warning in report.warnings)
    assert report.eval_prompts == PROMPTS
    report = prepared(tmp_path / "run", {"type": "random", "count": 1})
    assert not any("split_by" in warning for warning in report.warnings)


def test_random_groups_hold_whole_users(run_dir):
    report = prepared(run_dir, {"type": "random", "count": 3})
    assert sum(group.users for group in report.groups) == 30
    assert [group.preference_group for group in sorted(report.groups, key=lambda g: g.preference_group)] == [
        "random-1", "random-2", "random-3",
    ]  # fmt: skip


def test_rows_that_name_no_group_need_another_type(run_dir):
    with pytest.raises(DataError, match="names a preference group"):
        prepared(run_dir, {"type": "column"})


def test_prompts_that_are_all_too_long_are_told_before_anything_is_clustered(run_dir):
    with pytest.raises(DataError, match="no prompt is left to train on: 150 rows rejected"):
        prepared(run_dir, CLUSTER, max_prompt_tokens=8)
