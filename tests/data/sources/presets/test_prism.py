"""PRISM, from rows of exactly its published shape (its codebook)."""

import json
from datetime import UTC, datetime

import datasets
import pytest

from pgrpo_cli.data.sources.context import ReadContext
from pgrpo_cli.data.sources.presets import read_prism
from pgrpo_cli.errors import DataError
from pgrpo_cli.recipe.public_sets import PrismSource


def message(turn, role, content, score=None, chosen=None, within_turn_id=None):
    model = role == "model"
    return {
        "turn": turn,
        "role": role,
        "content": content,
        "model_provider": "openai" if model else None,
        "model_name": "gpt-4" if model else None,
        "score": score,
        "if_chosen": chosen,
        "within_turn_id": within_turn_id,
    }


def conversation(user="user0", number=0, history=None):
    return {
        "conversation_id": f"c{number}",
        "user_id": user,
        "included_in_balanced_subset": True,
        "generated_datetime": "2023-11-22 15:55:46",
        "timing_duration_s": 555.9,
        "timing_duration_mins": 9.3,
        "conversation_type": "unguided",
        "opening_prompt": "Is tea good?",
        "conversation_turns": 2,
        "conversation_history": history
        if history is not None
        else [
            message(0, "user", "Is tea good?"),
            message(0, "model", "Yes.", 40, False, 0),
            message(0, "model", "Very.", 90, True, 1),
            message(0, "model", "No.", 95, False, 2),
            message(1, "user", "And coffee?"),
            message(1, "model", "Too.", 70, False, 0),
            message(1, "model", "Less.", 60, True, 1),
        ],
        "performance_attributes": {"values": 50, "fluency": 80},
        "choice_attributes": {"values": 50, "fluency": 80},
        "open_feedback": "Fine.",
    }


def person(user="user0", region="UK"):
    return {
        "user_id": user,
        "survey_only": False,
        "num_completed_conversations": 1,
        "self_description": "I like tea.",
        "system_string": "Be brief.",
        "age": "25-34 years old",
        "gender": "Female",
        "religion": {
            "self_described": "none",
            "categorised": "Non-religious",
            "simplified": "No Affiliation",
        },
        "location": {"reside_country": "United Kingdom", "special_region": region},
        "stated_prefs": {
            "values": 10,
            "creativity": 100,
            "personalisation": 55,
            "other": 3,
            "other_text": "x",
        },
    }


def read(folder, conversations, people, *, needs_group=True, **section):
    (folder / "prism").mkdir(exist_ok=True)
    for name, rows in (("conversations", conversations), ("survey", people)):
        text = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
        (folder / "prism" / f"{name}.jsonl").write_text(text)
    return read_prism(PrismSource(path="prism", **section), ReadContext(folder, groups_from_rows=needs_group))


def test_the_opening_prompt_with_the_answer_that_was_chosen(tmp_path):
    data = read(tmp_path, [conversation()], [person()])
    (record,) = data.train
    assert record.messages == ({"role": "user", "content": "Is tea good?"},)
    assert (record.preference_group, record.user_id) == ("UK", "user0")
    assert record.time == datetime(2023, 11, 22, 15, 55, 46, tzinfo=UTC).timestamp()
    assert record.columns == {
        "conversation_id": "c0",
        "conversation_type": "unguided",
        "turn": 0,
        "reference": "Very.",
        "reference_score": 90.0,
        "scores": [40.0, 90.0, 95.0],
    }
    assert (record.file, record.line) == ("prism/conversations.jsonl", 1)
    assert [file.name for file in data.files] == ["prism/conversations.jsonl", "prism/survey.jsonl"]
    assert data.eval is None


def test_all_turns_go_on_with_what_was_chosen(tmp_path):
    first, second = read(tmp_path, [conversation()], [person()], turns="all").train
    assert len(first.messages) == 1
    assert second.messages == (
        {"role": "user", "content": "Is tea good?"},
        {"role": "assistant", "content": "Very."},
        {"role": "user", "content": "And coffee?"},
    )
    assert (second.columns["reference"], second.columns["reference_score"]) == ("Less.", 60.0)
    assert (second.columns["turn"], second.columns["scores"]) == (1, [70.0, 60.0])


def test_people_have_profiles(tmp_path):
    profile = read(tmp_path, [conversation()], [person()]).profiles["user0"]
    assert profile.features == {"values": 10.0, "creativity": 100.0, "personalisation": 55.0}
    assert profile.text == "I like tea."


@pytest.mark.parametrize(
    ("column", "groups"),
    [
        ("location.special_region", ["UK", "US"]),
        ("gender", ["Female", "Female"]),
        ("religion.simplified", ["No Affiliation", "No Affiliation"]),
        ("user_id", ["user0", "user1"]),
    ],
)
def test_preference_groups_by_any_column(tmp_path, column, groups):
    people = [person(), person("user1", "US")]
    data = read(tmp_path, [conversation(), conversation("user1")], people, preference_groups_by=column)
    assert [record.preference_group for record in data.train] == groups


def test_a_column_that_the_survey_lacks_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(DataError, match=r"has no column 'location\.region'") as caught:
        read(tmp_path, [conversation()], [person()], preference_groups_by="location.region")
    assert "perhaps 'location.special_region'" in caught.value.remedy
    with pytest.raises(DataError, match="has no column 'location'"):
        read(tmp_path, [conversation()], [person()], preference_groups_by="location")


def test_broken_rows_cost_no_others(tmp_path):
    opening = message(0, "user", "Hi")
    answer = message(0, "model", "Ho", 5, True)
    rows = [
        conversation(),
        conversation("user9"),
        conversation("user2"),
        conversation() | {"user_id": None},
        conversation() | {"generated_datetime": "once"},
        conversation(history=[]),
        conversation(history="none"),
        conversation(history=[answer]),
        conversation(history=[message(0, "user", " "), answer]),
        conversation(history=[opening]),
        conversation(history=[opening, message(0, "model", "Ho", None, True)]),
        '{"broken\n',
        conversation(history=[opening, answer]),
    ]
    data = read(tmp_path, rows, [person(), person("user2", None), "{\n"])
    assert [record.line for record in data.train] == [1, 13]
    assert [(row.where, row.reason) for row in data.rejected] == [
        ("prism/survey.jsonl:3", "not JSON"),
        ("prism/conversations.jsonl:2", "no preference group"),
        ("prism/conversations.jsonl:3", "no preference group"),
        ("prism/conversations.jsonl:4", "no user"),
        ("prism/conversations.jsonl:5", "time is no number or date"),
        ("prism/conversations.jsonl:6", "no conversation"),
        ("prism/conversations.jsonl:7", "no conversation"),
        ("prism/conversations.jsonl:8", "no conversation"),
        ("prism/conversations.jsonl:9", "empty prompt"),
        ("prism/conversations.jsonl:10", "no rated answer"),
        ("prism/conversations.jsonl:11", "no rated answer"),
        ("prism/conversations.jsonl:12", "not JSON"),
    ]
    # Line 3 is of a person of whom the survey has no region; 10 and 11 have no score.
    assert [row.line for row in data.rejected if row.left_out] == [3, 10, 11]
    assert data.rows == {"prism/conversations.jsonl": 13, "prism/survey.jsonl": 3}


def test_without_a_chosen_answer_the_best_scored_counts(tmp_path):
    history = [message(0, "user", "Hi"), message(0, "model", "a", 5), message(0, "model", "b", 7)]
    (record,) = read(tmp_path, [conversation(history=history)], [person()]).train
    assert record.columns["reference"] == "b"


def test_people_without_a_preference_group_are_kept_where_something_else_gives_it(tmp_path):
    rows = [conversation("user9"), conversation()]
    data = read(tmp_path, rows, [person()], needs_group=False)
    assert [(record.user_id, record.preference_group) for record in data.train] == [
        ("user9", None),
        ("user0", "UK"),
    ]


def test_a_limit_counts_conversations(tmp_path):
    people = [person(), person("user1")]
    data = read(tmp_path, [conversation(), conversation("user1"), conversation()], people, limit=2)
    assert [record.user_id for record in data.train] == ["user0", "user1"]


def test_where_the_set_is_not(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="there is no folder"):
        read_prism(PrismSource(path="gone"), ReadContext(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no file matches data\.source\.path: 'empty/survey.jsonl'"):
        read_prism(PrismSource(path="empty"), ReadContext(tmp_path))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="'HannahRoseKirk/prism-alignment:survey:train' cannot be read"):
        read_prism(PrismSource(), ReadContext(tmp_path))
