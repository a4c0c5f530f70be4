"""Open WebUI's export, from records of the shape that its front end and its API give them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.data.records import SourceData
from pgrpo_cli.data.sources.context import ReadContext
from pgrpo_cli.data.sources.open_webui import read_open_webui
from pgrpo_cli.recipe.sources import OpenWebuiSource


def message(id: str, parent: str | None, role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"id": id, "parentId": parent, "childrenIds": [], "role": role, "content": content, **more}


HISTORY = {
    "currentId": "a3",
    "messages": {
        "u1": message("u1", None, "user", "Tea or coffee?", models=["llama"]),
        "a1": message("a1", "u1", "assistant", "Tea.", model="llama", done=True),
        "a2": message("a2", "u1", "assistant", "Coffee!", model="llama", done=True),
        "u2": message("u2", "a1", "user", "Why?"),
        "a3": message("a3", "u2", "assistant", "It is mild.", model="llama", done=True),
    },
}


def feedback(id: str = "f1", rating: Any = 1, message_id: Any = "a3", **values: Any) -> dict[str, Any]:
    chat = {"models": ["llama"], "params": {}, "history": HISTORY, "messages": [], "tags": [], "files": []}
    return {
        "id": id,
        "user_id": "11111111-2222-3333-4444-555555555555",
        "version": 0,
        "type": "rating",
        "data": {
            "rating": rating,
            "model_id": "llama",
            "sibling_model_ids": None,
            "reason": "accurate_information",
            "comment": "mild is good",
            "tags": [],
            "details": {"rating": 9},
        },
        "meta": {"arena": False, "model_id": "llama", "message_id": message_id, "message_index": 4},
        "snapshot": {
            "chat": {"id": "c", "title": "Tea", "user_id": "11111111", "chat": chat, "archived": False}
        },
        "created_at": 1_704_067_200,
        "updated_at": 1_704_067_260,
        **values,
    }


def read(folder: Path, *records: Any) -> SourceData:
    (folder / "feedback.json").write_text(json.dumps(list(records)))
    section = OpenWebuiSource.model_validate({"path": "feedback.json"})
    return read_open_webui(section, ReadContext(folder))


def test_a_rating_has_the_conversation_up_to_its_answer(tmp_path: Path) -> None:
    (prompt,) = read(tmp_path, feedback()).train
    assert prompt.messages == (
        {"role": "user", "content": "Tea or coffee?"},
        {"role": "assistant", "content": "Tea."},
        {"role": "user", "content": "Why?"},
    )
    assert prompt.columns == {
        "feedback_id": "f1",
        "answer": "It is mild.",
        "rating": 1,
        "reference": "It is mild.",
        "chosen": "It is mild.",
        "comment": "mild is good",
        "reason": "accurate_information",
        "details_rating": 9,
        "model": "llama",
    }
    assert (prompt.user_id, prompt.preference_group) == ("11111111-2222-3333-4444-555555555555",) * 2
    assert prompt.time == 1_704_067_260


def test_the_rated_branch_is_read_and_no_other(tmp_path: Path) -> None:
    (prompt,) = read(tmp_path, feedback(rating=-1, message_id="a2")).train
    assert prompt.messages == ({"role": "user", "content": "Tea or coffee?"},)
    columns = {name: prompt.columns[name] for name in ("answer", "rating", "rejected")}
    assert columns == {"answer": "Coffee!", "rating": -1, "rejected": "Coffee!"}
    assert "reference" not in prompt.columns


@pytest.mark.parametrize("order", [("old", "new"), ("new", "old")])
def test_of_several_exports_the_latest_version_of_a_feedback_counts(
    tmp_path: Path, order: tuple[str, str]
) -> None:
    later = {"updated_at": 1_704_067_300}
    exports = {
        "old": [feedback("same"), feedback("changed"), feedback("withdrawn"), feedback("soon broken")],
        "new": [
            feedback("same"),
            feedback("changed", rating=-1, **later),
            feedback("withdrawn", rating=None, **later),
            feedback("soon broken", snapshot=None, **later),
            feedback("new", **later),
        ],
    }
    for export, records in exports.items():
        (tmp_path / f"{export}.json").write_text(json.dumps(records))
    section = OpenWebuiSource.model_validate({"path": [f"{export}.json" for export in order]})
    data = read_open_webui(section, ReadContext(tmp_path))
    found = {(prompt.columns["feedback_id"], prompt.columns["rating"]) for prompt in data.train}
    assert found == {("same", 1), ("changed", -1), ("new", 1)}
    reasons = Counter((row.reason, row.left_out) for row in data.rejected)
    assert reasons == {("exported again", True): 4, ("no rating", True): 1, ("no conversation", False): 1}


@pytest.mark.parametrize(("said", "rating"), [("1", 1), ("-1", -1), (0, 0)])
def test_a_rating_may_be_a_text(tmp_path: Path, said: Any, rating: int) -> None:
    (prompt,) = read(tmp_path, feedback(rating=said)).train
    assert prompt.columns["rating"] == rating


def test_messages_may_be_a_list_and_the_chat_lie_one_level_higher(tmp_path: Path) -> None:
    chat = {"history": {"messages": list(HISTORY["messages"].values())}, "params": {"system": "Be brief."}}
    (prompt,) = read(tmp_path, feedback(snapshot={"chat": chat})).train
    assert [message["role"] for message in prompt.messages] == ["system", "user", "assistant", "user"]


def test_what_the_model_thought_first_is_left_out(tmp_path: Path) -> None:
    thought = '<details type="reasoning" done="true">\n<summary>Thought</summary>\n> Hm.\n</details>\nTea.'
    messages = {**HISTORY["messages"], "a1": message("a1", "u1", "assistant", thought)}
    chat = {"history": {"messages": messages}}
    (prompt,) = read(tmp_path, feedback(message_id="a1", snapshot={"chat": {"chat": chat}})).train
    assert prompt.columns["answer"] == "Tea."


CIRCLE = {
    "history": {"messages": {"a": message("a", "b", "assistant", "x"), "b": message("b", "a", "user", "y")}}
}


@pytest.mark.parametrize(
    ("record", "reason", "left_out"),
    [
        (feedback(type="comment"), "no rating", True),
        (feedback(rating=None), "no rating", True),
        (feedback(rating=True), "rating is none", False),
        (feedback(rating=[1]), "rating is none", False),
        (feedback(user_id=None), "no preference group", False),
        (feedback(snapshot=None), "no conversation", False),
        (feedback(snapshot={"chat": {"history": 3}}), "no conversation", False),
        (feedback(message_id="gone"), "message is missing", False),
        (feedback(message_id=None), "message is missing", False),
        (feedback(message_id=["a1"]), "message is missing", False),
        (feedback(message_id="u2"), "rated message is no answer", False),
        (feedback(message_id="a", snapshot={"chat": CIRCLE}), "conversation too long", False),
        (feedback(updated_at="soon"), "time is no number or date", False),
        (feedback(data=3), "no rating", True),
        ([], "not a JSON object", False),
    ],
)
def test_what_is_no_rating_of_an_answer_is_rejected(
    tmp_path: Path, record: Any, reason: str, left_out: bool
) -> None:
    data = read(tmp_path, feedback("f0"), record)
    assert len(data.train) == 1
    assert [(row.reason, row.left_out) for row in data.rejected] == [(reason, left_out)]
