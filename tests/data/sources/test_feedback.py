"""Ratings and picks as prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.data.records import SourceData
from pgrpo_cli.data.sources.context import ReadContext
from pgrpo_cli.data.sources.feedback import read_feedback_files
from pgrpo_cli.errors import DataError
from pgrpo_cli.feedback.file import append
from pgrpo_cli.feedback.records import Pick, Rating, Undo
from pgrpo_cli.recipe.sources import FeedbackSource

MESSAGES = ({"role": "user", "content": "Tea or coffee?"},)


def read(folder: Path, *paths: str, **context: Any) -> SourceData:
    section = FeedbackSource.model_validate({"path": list(paths or ("f.jsonl",))})
    return read_feedback_files(section, ReadContext(folder, **context))


def columns(folder: Path, record: Rating | Pick) -> dict[str, Any]:
    append(folder / "f.jsonl", record)
    (prompt,) = read(folder).train
    assert prompt.columns.pop("feedback_id") == record.id
    return prompt.columns


def rating(**values: Any) -> Rating:
    return Rating(**{"messages": MESSAGES, "answer": "Tea.", "user": "ana", **values})


def pick(**values: Any) -> Pick:
    return Pick(
        **{"messages": MESSAGES, "answers": ("Tea.", "Coffee!"), "user": "ana", "pick": "2", **values}
    )


LIKED = {"answer": "Tea.", "rating": 1, "reference": "Tea.", "chosen": "Tea."}
EDITED = {"answer": "Cocoa.", "rating": 1, "reference": "Cocoa.", "chosen": "Cocoa."}


@pytest.mark.parametrize(("first", "rejected"), [(1, None), (-1, "Tea.")])
def test_an_answer_that_was_liked_before_it_was_corrected_is_not_rejected(
    tmp_path: Path, first: int, rejected: str | None
) -> None:
    for record in (rating(rating=first), rating(edited="Cocoa."), rating(edited="Milk.", user="ben")):
        append(tmp_path / "f.jsonl", record)
    _, corrected, of_ben = read(tmp_path).train
    assert corrected.columns["chosen"] == "Cocoa." and corrected.columns.get("rejected") == rejected
    assert of_ben.columns["rejected"] == "Tea."


def test_a_correction_for_one_preference_group_knows_no_rating_for_another(tmp_path: Path) -> None:
    append(tmp_path / "f.jsonl", rating(rating=1, user=None, preference_group="often"))
    append(tmp_path / "f.jsonl", rating(edited="Cocoa.", user=None, preference_group="seldom"))
    _, corrected = read(tmp_path).train
    assert corrected.columns["rejected"] == "Tea."


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (rating(rating=1), LIKED),
        (rating(rating=-1), {"answer": "Tea.", "rating": -1, "rejected": "Tea."}),
        (rating(edited="Cocoa."), {**EDITED, "rejected": "Tea."}),
        (rating(edited="Cocoa.", rating=-1), {**EDITED, "rejected": "Tea."}),
        # An answer that was liked is no worse than its correction by any word of the user.
        (rating(edited="Cocoa.", rating=1), EDITED),
        (pick(pick="1"), {**LIKED, "rejected": "Coffee!"}),
        (pick(pick="="), {"answer": "Tea.", "rating": 0}),
    ],
)
def test_the_columns_say_what_was_liked(
    tmp_path: Path, record: Rating | Pick, expected: dict[str, Any]
) -> None:
    assert columns(tmp_path, record) == expected


def test_users_times_and_groups_come_from_the_records(tmp_path: Path) -> None:
    append(tmp_path / "f.jsonl", rating(rating=1, time="1970-01-01T00:01:00+00:00"))
    append(tmp_path / "f.jsonl", pick(preference_group="terse", time="1970-01-02"))
    append(tmp_path / "f.jsonl", pick(user=None, preference_group="terse"))
    data = read(tmp_path)
    found = [(p.user_id, p.preference_group, p.file, p.line) for p in data.train]
    assert found == [
        ("ana", "ana", "f.jsonl", 1),
        ("ana", "terse", "f.jsonl", 2),
        (None, "terse", "f.jsonl", 3),
    ]
    assert [p.time for p in data.train[:2]] == [60, 86400]
    assert data.train[0].messages == MESSAGES
    assert data.eval is None


def test_several_files_and_patterns_are_read_and_no_record_twice(tmp_path: Path) -> None:
    for name in ("a/f.jsonl", "b/t.jsonl"):
        (tmp_path / name).parent.mkdir()
        append(tmp_path / name, pick())
    (tmp_path / "b" / "copy.jsonl").write_bytes((tmp_path / "b" / "t.jsonl").read_bytes())
    data = read(tmp_path, "a/*.jsonl", "**/*.jsonl")
    assert [prompt.file for prompt in data.train] == ["a/f.jsonl", "b/copy.jsonl"]
    # It is left out, and no broken row, of which there may be few only.
    (twice,) = data.rejected
    assert (twice.where, twice.reason, twice.left_out) == ("b/t.jsonl:1", "id stands twice", True)
    assert [file.name for file in data.files] == ["a/f.jsonl", "b/copy.jsonl", "b/t.jsonl"]
    assert data.rows == {"a/f.jsonl": 1, "b/copy.jsonl": 1, "b/t.jsonl": 1}


@pytest.mark.parametrize("backup", ["a", "z"])
def test_an_older_copy_brings_back_nothing_that_was_withdrawn(tmp_path: Path, backup: str) -> None:
    now = tmp_path / "m.jsonl"
    withdrawn = pick()
    append(now, rating(rating=1, seed=1, run="r"))
    append(now, withdrawn)
    (tmp_path / f"{backup}.jsonl").write_bytes(now.read_bytes())
    # Within the same second: the order of the file says which is the last.
    disliked = rating(rating=-1, seed=1, run="r")
    append(now, disliked)
    append(now, Undo(undone=withdrawn.id))
    data = read(tmp_path, "*.jsonl")
    assert [prompt.columns["feedback_id"] for prompt in data.train] == [disliked.id]
    assert data.rejected == ()


def test_the_last_rating_counts_in_whichever_file_it_stands(tmp_path: Path) -> None:
    append(tmp_path / "a.jsonl", rating(rating=-1, seed=1, time="2026-01-02"))
    append(tmp_path / "b.jsonl", rating(rating=1, seed=1, time="2026-01-01"))
    append(tmp_path / "b.jsonl", rating(rating=1, seed=2, time="2026-01-01"))
    data = read(tmp_path, "*.jsonl")
    assert [(prompt.file, prompt.line) for prompt in data.train] == [("a.jsonl", 1), ("b.jsonl", 2)]


def test_a_path_may_be_one_text() -> None:
    assert FeedbackSource.model_validate({"path": "f.jsonl"}).paths == ("f.jsonl",)


def test_broken_lines_and_undone_picks_are_no_prompts(tmp_path: Path) -> None:
    undone = pick()
    append(tmp_path / "f.jsonl", undone)
    with (tmp_path / "f.jsonl").open("ab") as file:
        file.write(b"{broken}\n")
    append(tmp_path / "f.jsonl", Undo(undone=undone.id))
    append(tmp_path / "f.jsonl", pick())
    with (tmp_path / "f.jsonl").open("ab") as file:
        file.write(b'{"version": 1, "ki')
    data = read(tmp_path)
    assert [prompt.line for prompt in data.train] == [4]
    assert [(row.where, row.reason) for row in data.rejected] == [("f.jsonl:2", "not a record")]
    assert [
        note.endswith("f.jsonl:5: the last line is cut short; it is skipped.") for note in data.notes
    ] == [True]


def test_a_rating_of_nobody_needs_groups_from_elsewhere(tmp_path: Path) -> None:
    append(tmp_path / "f.jsonl", rating(user=None, rating=1))
    (row,) = read(tmp_path).rejected
    assert row.reason == "no preference group"
    (prompt,) = read(tmp_path, groups_from_rows=False).train
    assert (prompt.preference_group, prompt.user_id) == (None, None)


def test_a_pattern_without_a_file_is_an_error(tmp_path: Path) -> None:
    append(tmp_path / "f.jsonl", pick())
    with pytest.raises(DataError, match=r"no file matches data\.source\.path: 'gone\.jsonl'"):
        read(tmp_path, "f.jsonl", "gone.jsonl")


def test_an_empty_list_of_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.source\.path is an empty list"):
        read_feedback_files(FeedbackSource(path=()), ReadContext(tmp_path))
