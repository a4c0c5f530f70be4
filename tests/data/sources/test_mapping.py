import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.data.records import PromptRecord
from pgrpo_cli.data.row_problem import RowProblem
from pgrpo_cli.data.sources.json_text import parse_line
from pgrpo_cli.data.sources.mapping import RowMapper
from pgrpo_cli.data.sources.rows import RawRow
from pgrpo_cli.errors import RecipeError
from pgrpo_cli.feedback.records import checked_name
from pgrpo_cli.recipe.conditioning import ProfilesConditioning
from pgrpo_cli.recipe.reward_text import RegexReward
from pgrpo_cli.recipe.sources import JsonlSource

SECTION = JsonlSource(path="rows.jsonl")
USER = [{"role": "user", "content": "Hi"}]


def record_from_row(row, section, file, line, **options):
    mapper, found = RowMapper(section, **options), RawRow(file, line, row)
    (texts,) = mapper.texts([found])
    return mapper.record(found, texts)


def made(section=SECTION, **row):
    return record_from_row({"preference_group": "a", **row}, section, "rows.jsonl", 3)


def problem(call, *args, **kwargs):
    with pytest.raises(RowProblem) as caught:
        call(*args, **kwargs)
    return caught.value


def test_a_prompt_is_the_users_message_and_other_columns_are_kept():
    record = made(prompt="Hi", reference="Ho", tags=[1, None])
    assert record.messages == ({"role": "user", "content": "Hi"},)
    assert record.columns == {"reference": "Ho", "tags": [1, None]}
    assert (record.preference_group, record.file, record.line) == ("a", "rows.jsonl", 3)


@pytest.mark.parametrize("row", [{"messages": USER}, {"prompt": USER}, {"prompt": None, "messages": USER}])
def test_messages_can_stand_for_the_prompt(row):
    assert made(**row).messages == tuple(USER)


def test_columns_can_have_other_names():
    section = JsonlSource(path="x", prompt_column="q", messages_column="chat", preference_group_column="who")
    record = record_from_row({"q": "Hi", "who": "a", "prompt": "kept"}, section, "f", 1)
    assert record.messages[0]["content"] == "Hi"
    assert record.columns == {"prompt": "kept"}


def test_the_id_is_a_function_of_the_content_alone():
    plain = made(prompt="Hi", x=1, y=2)
    assert record_from_row(
        {"y": 2, "x": 1, "prompt": "Hi", "preference_group": "a"}, SECTION, "other", 9
    ).prompt_id == (plain.prompt_id)
    others = {
        made(prompt="Ho", x=1, y=2).prompt_id,
        made(prompt="Hi", x=1, y=3).prompt_id,
        made(prompt="Hi").prompt_id,
    }
    assert len(others | {plain.prompt_id}) == 4


@pytest.mark.parametrize(
    ("value", "name"), [("a", "a"), (" a ", "a"), (3, "3"), (-1, "-1"), ("Ünï 🎷", "Ünï 🎷")]
)
def test_preference_groups_are_names_or_whole_numbers(value, name):
    assert made(prompt="Hi", preference_group=value).preference_group == name


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no preference group"),
        ("", "no preference group"),
        ("  ", "no preference group"),
        (True, "preference group is no text"),
        (1.5, "preference group is no text"),
        (["a"], "preference group is no text"),
        ("a\nb", "preference group is no name"),
        ("a\x00", "preference group is no name"),
        ("x" * 201, "preference group is no name"),
        ("\ud800", "not Unicode text"),
    ],
)
def test_what_is_no_preference_group(value, reason):
    row = {"prompt": "Hi", "preference_group": value}
    assert problem(record_from_row, row, SECTION, "f", 1).reason == reason
    assert RowMapper(SECTION).group_named_in(RawRow("f", 1, row)) is None


@pytest.mark.parametrize("value", [12, 12.0, "12"])
def test_a_whole_number_is_a_preference_group_also_where_a_table_has_gaps(value):
    assert mapped({"prompt": "Hi", "preference_group": value}).preference_group == "12"


def test_a_missing_preference_group_names_the_column():
    found = problem(record_from_row, {"prompt": "Hi"}, SECTION, "f", 1)
    assert (found.reason, found.detail) == ("no preference group", "column 'preference_group' is missing")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "no prompt"),
        ({"prompt": None}, "no prompt"),
        ({"prompt": ""}, "empty prompt"),
        ({"prompt": " \n\t"}, "empty prompt"),
        ({"prompt": 5}, "prompt is no text"),
        ({"prompt": {"text": "Hi"}}, "prompt is no text"),
        ({"prompt": []}, "empty prompt"),
        ({"messages": "Hi"}, "messages are no list"),
        ({"messages": []}, "empty prompt"),
        ({"messages": ["Hi"]}, "message is no {role, content}"),
        ({"messages": [{"content": "Hi"}]}, "message is no {role, content}"),
        ({"messages": [{"role": "user"}]}, "message is no {role, content}"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "unknown role"),
        ({"messages": [{"role": ["user"], "content": "Hi"}]}, "unknown role"),
        ({"messages": [{"role": "user", "content": ["Hi"]}]}, "prompt is no text"),
        ({"messages": [{"role": "user", "content": " "}]}, "empty prompt"),
        (
            {"messages": [*USER, {"role": "assistant", "content": "Ho"}]},
            "messages do not end with the user's",
        ),
        ({"prompt": "half \udfff"}, "not Unicode text"),
    ],
)
def test_what_is_no_prompt(row, reason):
    assert problem(made, **row).reason == reason


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(["prompt", "messages", "preference_group", "role", "content"]) | st.text(max_size=5)


@given(st.dictionaries(keys, json_values, max_size=5))
def test_every_json_object_is_a_record_or_a_problem(row):
    try:
        record = record_from_row(parse_line(json.dumps(row).encode()), SECTION, "f", 1)
    except RowProblem as problem:
        assert problem.reason
        assert problem.detail
    else:
        assert isinstance(record, PromptRecord)
        assert record.preference_group.isprintable()
        json.dumps(record.columns, allow_nan=False)
        for message in record.messages:
            message["content"].encode("utf-8")


def mapped(values, **section):
    return record_from_row(values, JsonlSource(path="x", **section), "f", 1, needs_group=False)


def test_a_template_makes_the_users_message_of_the_columns():
    record = mapped(
        {"prompt": "kept", "item": "Soup", "stars": 4, "a b": ["x"], "preference_group": "a"},
        template=" {{ item }}: {{ stars }} {{ row['a b']|join }}\n",
    )
    assert record.messages == ({"role": "user", "content": "Soup: 4 x"},)
    # Without a template, prompt would be the prompt; with one it is a column as any other.
    assert record.columns == {"prompt": "kept", "item": "Soup", "stars": 4, "a b": ["x"]}
    assert record.preference_group == "a"


@pytest.mark.parametrize(
    ("template", "reason", "detail"),
    [
        ("{{ gone }}", "data.source.template cannot render it", "'gone' is undefined"),
        ("{{ x.y }}", "data.source.template cannot render it", "'int object' has no attribute 'y'"),
        ("{% if x == 2 %}text{% endif %}", "empty prompt", "the rendered template is blank"),
    ],
)
def test_a_template_that_fails_for_a_row_rejects_it(template, reason, detail):
    found = problem(mapped, {"x": 1}, template=template)
    assert (found.reason, found.detail) == (reason, detail)


def test_a_template_that_takes_too_much_ends_it():
    with pytest.raises(RecipeError, match=r"data\.source\.template: stopped for needing more than 512 MiB"):
        mapped({"n": 10**9}, template="{{ 'a' * n }}")


def test_a_record_keeps_the_whole_row_for_templates():
    record = mapped({"prompt": "Hi", "preference_group": "a", "answer": "Yes."}, reference_column="answer")
    assert record.columns == {"reference": "Yes."}
    assert record.values["prompt"] == "Hi" and record.values["answer"] == record.values["reference"] == "Yes."


def test_a_final_answer_can_become_the_reference():
    chat = [*USER, {"role": "assistant", "content": "Ho"}]
    record = mapped({"messages": chat, "score": 3}, drop_last_assistant=True)
    assert record.messages == tuple(USER)
    assert record.columns == {"score": 3, "reference": "Ho"}
    assert mapped({"messages": USER}, drop_last_assistant=True).columns == {}
    assert problem(mapped, {"messages": chat[1:]}, drop_last_assistant=True).reason == "empty prompt"
    twice = [*chat, chat[1]]
    assert problem(mapped, {"messages": twice}, drop_last_assistant=True).reason == (
        "messages do not end with the user's"
    )


def test_a_reference_column_is_read_by_rewards_under_that_name():
    assert mapped({"prompt": "Hi", "chosen": "Ho"}, reference_column="chosen").columns == {"reference": "Ho"}
    for row, reason in (
        ({}, "no reference"),
        ({"chosen": None}, "no reference"),
        ({"chosen": 3}, "reference is no text"),
    ):
        assert problem(mapped, {"prompt": "Hi", **row}, reference_column="chosen").reason == reason


@pytest.mark.parametrize(
    ("value", "user"), [("u1", "u1"), (" u1 ", "u1"), (7, "7"), (7.0, "7"), (None, None), ("  ", None)]
)
def test_users_are_texts_or_whole_numbers(value, user):
    record = mapped({"prompt": "Hi", "who": value}, user_column="who")
    assert record.user_id == user
    assert record.columns == {"who": value}


def test_names_are_spelt_in_one_way_here_and_in_the_recipe():
    parted = "Zoe\u0308"
    record = mapped({"prompt": "Hi", "preference_group": parted, "who": parted}, user_column="who")
    (limit,) = RegexReward(pattern="x", preference_groups=[parted]).preference_groups
    (described,) = ProfilesConditioning(type="profiles", profiles={parted: "x"}).profiles
    names = {record.preference_group, record.user_id, limit, described, checked_name(parted, "--user")}
    assert names == {"Zoë"}


@pytest.mark.parametrize("value", [True, 1.5, ["u1"]])
def test_what_is_no_user(value):
    assert problem(mapped, {"prompt": "Hi", "who": value}, user_column="who").reason == "user is no id"


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (5, 5.0),
        ("1.5", 1.5),
        (None, None),
        ("1970-01-02", 86400.0),
        ("1970-01-01 00:01:00", 60.0),
        ("1970-01-01T01:01:00+01:00", 60.0),
        ("1970-01-01T00:01:00Z", 60.0),
    ],
)
def test_times_are_numbers_or_dates(value, found):
    assert mapped({"prompt": "Hi", "at": value}, time_column="at").time == found


def test_dates_without_a_zone_are_utc_wherever_they_are_read(monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert mapped({"prompt": "Hi", "at": "1970-01-01 00:01:00"}, time_column="at").time == 60
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("value", ["soon", "", "nan", "inf", True, [1], 10**400, "9999-13-01"])
def test_what_is_no_time(value):
    found = problem(mapped, {"prompt": "Hi", "at": value}, time_column="at")
    assert found.reason == "time is no number or date"


def test_a_row_need_not_name_a_group_that_something_else_gives():
    assert mapped({"prompt": "Hi"}).preference_group is None
    assert mapped({"prompt": "Hi", "preference_group": 3}).preference_group == "3"
    assert mapped({"prompt": "Hi", "preference_group": ["x"]}).preference_group is None
