import json
import sys
from pathlib import Path

import numpy as np
import pytest

from pgrpo_cli.data.preference_groups import ASSIGNERS, AssignContext, assign
from pgrpo_cli.data.preference_groups.centroids import nearest_group, profile_vector, tfidf_vector
from pgrpo_cli.data.records import UserProfile
from pgrpo_cli.errors import DataError, ModelError
from pgrpo_cli.recipe.data import ClusterGroups
from tests.support.records import source_record

TASTES = {"h": ("Horror", "Thriller"), "r": ("Romance", "Drama")}
GENRES = ("Horror", "Thriller", "Romance", "Drama", "War")


def profile(taste, number):
    """Ratings about 4 of what the user likes and about 2 of the rest."""
    rng = np.random.default_rng([number, ord(taste)])
    return UserProfile(
        {
            genre: (4.0 if genre in TASTES[taste] else 2.0) + 0.2 * float(rng.normal())
            for genre in GENRES
            if rng.random() < 0.9
        }
    )


PROFILES = {f"{taste}{n}": profile(taste, n) for taste, users in (("h", 20), ("r", 14)) for n in range(users)}
RECORDS = [source_record(f"{user} {i}", user) for user in PROFILES for i in range(2)]


def fit(records=RECORDS, profiles=PROFILES, seed=0, held_out=(), **section):
    section = ClusterGroups(**{"n_init": 3, "counts": (2, 4), **section})
    assigner = ASSIGNERS["cluster"](section, AssignContext(Path(__file__).parent, seed, "rows", profiles))
    assert assigner.after_split
    return assigner.fit(records, held_out)


def groups(fitted, records):
    return [record.preference_group for record in assign(records, fitted.group_of)[0]]


def test_users_who_like_the_same_are_together_and_named_after_it():
    fitted = fit()
    expected = {"h": "Horror, Thriller", "r": "Romance, Drama"}
    names = {
        user[0]: name
        for user, name in zip([r.user_id for r in RECORDS], groups(fitted, RECORDS), strict=True)
    }
    assert {taste: set(name.split(", ")) for taste, name in names.items()} == {
        taste: set(name.split(", ")) for taste, name in expected.items()
    }
    assert len(set(groups(fitted, RECORDS))) == 2
    findings = fitted.findings
    assert (findings["count"], findings["users"], findings["better_than_chance"]) == (2, 34, True)
    assert [cluster["users"] for cluster in findings["clusters"]] == [20, 14]
    assert set(findings["silhouettes"]) == {"2", "3", "4"}
    assert findings["stability"] == 1.0
    assert fitted.warnings == ()


def test_what_is_stored_places_every_user_where_they_were_put_and_new_ones_too():
    fitted = fit()
    stored = json.loads(json.dumps(fitted.stored))
    for record, group in zip(RECORDS, groups(fitted, RECORDS), strict=True):
        assert nearest_group(stored, profile_vector(stored, PROFILES[record.user_id].features)) == group
    new = UserProfile({"Horror": 5.0})
    everyone = {**PROFILES, "new": new}
    # Known to the source, without a training prompt: not fitted, and put with those who like horror.
    later = fit(profiles=everyone)
    assert later.stored == fitted.stored
    assert (
        groups(later, [source_record("?", "new")])
        == groups(later, RECORDS)[:1]
        == [nearest_group(stored, profile_vector(stored, new.features))]
    )


def test_the_order_of_rows_decides_nothing_and_the_seed_is_all_the_chance():
    one, other = fit(), fit(RECORDS[::-1], dict(reversed(PROFILES.items())))
    assert json.dumps(one.stored) == json.dumps(other.stored)
    assert json.dumps(one.findings) == json.dumps(other.findings)


def test_users_of_whom_nothing_is_known_cost_their_rows():
    records = [*RECORDS, source_record("a", "stranger"), source_record("b")]
    _, rejected = assign(records, fit(records).group_of)
    assert [row.reason for row in rejected] == ["nothing is known of the user", "no user"]


def test_words_of_training_prompts_tell_tastes():
    texts = {"h": "any film to scare me, with ghosts", "r": "any film to move me, with love"}
    records = [
        source_record(f"{texts[taste]} {'now' if n % 2 else 'today'}", f"{taste}{n}")
        for taste, users in (("h", 12), ("r", 9))
        for n in range(users)
    ]
    fitted = fit(records, {}, features="tfidf", count=2)
    names = groups(fitted, records)
    assert len(set(names[:12])) == len(set(names[12:])) == 1
    assert set(names[0].split(", ")) <= {"scare", "ghosts"}
    assert set(names[12].split(", ")) <= {"love"}
    # Everybody says film, and any, to, me and with tell nothing in English.
    assert set(fitted.stored["feature_names"]) == {"scare", "ghosts", "love", "today"}
    new = [source_record("I love love", "new"), source_record("ghosts!", "newer")]
    assert groups(fitted, new) == [names[12], names[0]]
    assert nearest_group(fitted.stored, tfidf_vector(fitted.stored, "love")) == names[12]
    # All that a held-out user asks puts each of their prompts in one cluster.
    held_out = [
        source_record(text, "new") for text in ("love", "love today", "love now", "ghosts", "nothing")
    ]
    again = fit(records, {}, features="tfidf", count=2, held_out=held_out)
    assert again.stored == fitted.stored
    assert set(groups(again, held_out)) == {names[12]}


def test_users_who_write_chinese_are_clustered_by_their_characters():
    texts = {"爵士": "我喜欢{}请推荐一首", "电影": "今晚看什么{}好呢"}
    records = [
        source_record(form.format(topic) + "你我他她它们"[n], f"{topic} {n}")
        for topic, form in texts.items()
        for n in range(6)
    ]
    names = groups(fit(records, {}, features="tfidf", count=2), records)
    assert len(set(names[:6])) == len(set(names[6:])) == 1
    assert names[0] != names[6]


def test_a_profile_text_counts_instead_of_the_prompts():
    profiles = {
        f"{t}{n}": UserProfile(text=f"{w} tunes") for t, w in (("h", "loud"), ("r", "soft")) for n in range(6)
    }
    records = [source_record("the same for all", user) for user in profiles]
    assert set(groups(fit(records, profiles, features="tfidf"), records)) == {"loud", "soft"}


def test_chance_and_tiny_clusters_are_warned_about():
    rng = np.random.default_rng(0)
    noise = {f"u{n}": UserProfile({g: float(rng.normal()) for g in GENRES}) for n in range(50)}
    records = [source_record(user, user) for user in noise]
    assert any("no better than chance" in warning for warning in fit(records, noise).warnings)
    lonely = {**PROFILES, "odd": UserProfile({"War": 60.0, **dict.fromkeys(GENRES[:4], 2.0)})}
    records = [source_record(user, user) for user in lonely]
    (warning,) = fit(records, lonely, count=3).warnings
    assert warning.startswith("cluster 'War' has only 1 of 35 users")


def test_the_number_of_clusters_may_be_given():
    fitted = fit(count=3)
    assert fitted.findings["silhouettes"].keys() == {"3"}
    assert len(fitted.stored["names"]) == len(fitted.stored["centroids"]) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"profiles": {}}, "knows no numbers of its users(.|\n)*'tfidf'"),
        ({"records": RECORDS[:4], "count": 2}, "2 users with training prompts, 2 of them different"),
        ({"profiles": dict.fromkeys(PROFILES, UserProfile({"War": 1.0}))}, "34 users .* 1 of them different"),
        ({"records": [source_record("a")]}, r"data\.source\.user_column"),
        ({"count": 40}, "cannot be put into 40 clusters(.|\n)*count"),
    ],
)
def test_users_who_cannot_be_told_apart_are_an_error(change, words):
    with pytest.raises(DataError, match=words):
        fit(**change)


def test_a_missing_embedding_model_is_named():
    with pytest.raises(ModelError, match="no folder 'gone'"):
        fit(features="embedding", model="gone")


def test_building_assigners_imports_no_heavy_library():
    import subprocess

    code = "import sys, pgrpo_cli.data.preference_groups; "
    code += "print({'sklearn', 'torch', 'transformers', 'scipy'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
