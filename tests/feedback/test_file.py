"""feedback.jsonl and taste.jsonl: nothing recorded is lost, no line of a stranger's file stops a command."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.errors import DataError, PathError, PgrpoError
from pgrpo_cli.feedback.file import LONGEST_LINE, append, read_feedback, read_several
from pgrpo_cli.feedback.records import Pick, Placed, Rating, Undo, checked_name

MESSAGES = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Tea or coffee?"})
HEAD = {"version": 1, "id": "a", "time": "2026-11-30T03:00:00+00:00"}
RATING: dict[str, Any] = {
    **HEAD,
    "kind": "rating",
    "user": "ana",
    "preference_group": None,
    "messages": list(MESSAGES),
    "answer": "Tea.",
    "rating": 1,
    "edited": None,
    "model": "tuned",
    "run": "quickstart",
    "step": 28,
    "seed": 123,
}
FORM = {**RATING, "messages": MESSAGES}
"""A rating as it is in memory."""
PICK: dict[str, Any] = {
    **HEAD,
    "kind": "pick",
    "user": "ana",
    "preference_group": None,
    "prompt_id": "p1",
    "messages": list(MESSAGES),
    "answers": ["Tea.", "Coffee!"],
    "pick": "2",
    "models": ["base", "tuned"],
    "run": "quickstart",
    "steps": [0, 28],
    "seeds": [1, 2],
    "instructions": [None, "Answer formally."],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "taste.jsonl"


def pick(**values: Any) -> Pick:
    return Pick(
        **{"user": "ana", "messages": MESSAGES, "answers": ("Tea.", "Coffee!"), "pick": "1", **values}
    )


def write(path: Path, *rows: dict[str, Any] | bytes) -> None:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")


def test_what_is_appended_is_read_in_its_order(path: Path) -> None:
    records = [pick(pick="="), Rating(messages=MESSAGES, answer="Tea.", rating=-1, seed=3), pick(user="ben")]
    for record in records:
        append(path, record)
    found = read_feedback(path)
    assert [record.model_copy(update={"line": 0}) for record in found.picks] == [records[0], records[2]]
    assert [record.line for record in found.picks] == [1, 3]
    assert [record.model_copy(update={"line": 0}) for record in found.ratings] == [records[1]]
    assert (found.problems, found.notes) == ((), ())


def test_the_documented_lines_are_read(path: Path) -> None:
    write(path, RATING, {**PICK, "id": "b"})
    found = read_feedback(path)
    (rating,), (picked,) = found.ratings, found.picks
    assert (rating.answer, rating.rating, rating.step, rating.user) == ("Tea.", 1, 28, "ana")
    assert rating.messages == MESSAGES
    # 2026-11-30T03:00:00Z is 20,787 days and 3 hours after 1970: 20787 * 86400 + 10800.
    assert rating.seconds == 20787 * 86400 + 10800
    assert (picked.picked, picked.refused, picked.first_share) == ("Coffee!", "Tea.", 0.0)


def test_a_line_has_the_documented_keys_and_no_other(path: Path) -> None:
    append(path, pick())
    append(path, Rating(messages=MESSAGES, answer="", edited="Tea, please."))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line.keys() for line in lines] == [PICK.keys(), RATING.keys()]


def test_a_pick_of_an_earlier_version_names_no_instructions(path: Path) -> None:
    write(path, {key: value for key, value in PICK.items() if key != "instructions"})
    (found,) = read_feedback(path).picks
    assert found.instructions == (None, None)


def test_a_tie_is_half_a_win_each_way() -> None:
    tie = pick(pick="=")
    assert (tie.picked, tie.refused, tie.first_share) == (None, None, 0.5)
    assert pick(pick="1").first_share == 1.0


def test_a_pick_is_taken_back(path: Path) -> None:
    first, second = pick(), pick()
    for record in (first, second, Undo(undone=first.id)):
        append(path, record)
    found = read_feedback(path)
    assert [record.id for record in found.picks] == [second.id]
    assert found.problems == ()


def test_of_several_ratings_of_an_answer_by_somebody_the_last_counts(path: Path) -> None:
    liked = Rating(user="ana", messages=MESSAGES, answer="Tea.", rating=1, seed=3)
    wanted = liked.model_copy(update={"id": "wanted", "rating": None, "edited": "Coffee."})
    bens = liked.model_copy(update={"id": "bens", "user": "ben"})
    again = liked.model_copy(update={"id": "again", "seed": 4})
    disliked = liked.model_copy(update={"id": "disliked", "rating": -1})
    nobodys = Rating(messages=MESSAGES, answer="Tea.", rating=1)
    for record in (liked, wanted, bens, again, disliked, nobodys, nobodys.model_copy(update={"id": "other"})):
        append(path, record)
    found = [(rating.id, rating.rating, rating.edited) for rating in read_feedback(path).ratings]
    assert found == [
        ("wanted", None, "Coffee."),
        ("bens", 1, None),
        ("again", 1, None),
        ("disliked", -1, None),
        # Nobody knows whether these are one person's.
        (nobodys.id, 1, None),
        ("other", 1, None),
    ]


def test_where_somebody_was_placed_is_read(path: Path) -> None:
    append(path, Placed(user="ana", probabilities={"terse": 0.6, "loud": 0.1}, nobody=0.3))
    append(path, Placed(user="ben", probabilities={"terse": 0.4, "loud": 0.4}, nobody=0.2))
    assert [placed.group for placed in read_feedback(path).placed] == ["terse", None]


def test_the_record_after_a_torn_line_stands_on_a_line_of_its_own(path: Path) -> None:
    append(path, pick())
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:40])
    found = read_feedback(path)
    assert (len(found.picks), found.problems) == (1, ())
    assert found.notes == (f"{path}:2: the last line is cut short; it is skipped.",)
    append(path, pick())
    found = read_feedback(path)
    assert (len(found.picks), [problem.line for problem in found.problems]) == (2, [2])


@pytest.mark.parametrize("length", range(0, 300, 7))
def test_a_kill_at_any_byte_costs_one_record_at_most(path: Path, length: int) -> None:
    append(path, pick())
    size = path.stat().st_size
    append(path, pick())
    os.truncate(path, size + length)
    append(path, pick())
    assert len(read_feedback(path).picks) == 2


def test_a_last_line_that_lacks_only_its_end_is_read(path: Path) -> None:
    write(path, PICK)
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert len(read_feedback(path).picks) == 1
    append(path, pick())
    assert len(read_feedback(path).picks) == 2


def test_two_programs_write_at_the_same_time(path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from pgrpo_cli.feedback.file import append\n"
        "from pgrpo_cli.feedback.records import Pick\n"
        "messages = ({'role': 'user', 'content': 'Hi'},)\n"
        "for n in range(50):\n"
        "    pick = Pick(user=sys.argv[2], pick='1', answers=('x' * 9000, 'y'), messages=messages)\n"
        "    append(Path(sys.argv[1]), pick)"
    )
    programs = [subprocess.Popen([sys.executable, "-c", code, str(path), user]) for user in ("ana", "ben")]
    assert [program.wait(60) for program in programs] == [0, 0]
    found = read_feedback(path)
    assert found.problems == ()
    assert sorted(record.user or "" for record in found.picks) == ["ana"] * 50 + ["ben"] * 50


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (b"nope", "Invalid JSON"),
        (b"[1]", "Input should be an object"),
        (b"\xff\xfe", "Invalid JSON"),
        (b"[" * 100_000, "recursion limit"),
        ({**PICK, "version": 2}, "version: Input should be 1, found 2"),
        ({**PICK, "kind": "vote"}, "'rating', 'pick', 'undo'"),
        ({**PICK, "id": None}, "id: Input should be a valid string, found None"),
        ({**PICK, "id": "a\x1b[2Jb"}, "id: a text that can be printed"),
        ({**PICK, "time": "yesterday"}, "time: an ISO 8601 date is needed, found 'yesterday'"),
        ({**PICK, "time": 3}, "time"),
        ({**PICK, "user": "x" * 201}, "user: String should have at most 200 characters"),
        ({**PICK, "user": None}, "user and preference_group are both null"),
        ({**PICK, "pick": "3"}, "pick: Input should be '1', '2' or '=', found '3'"),
        ({**PICK, "answers": ["one"]}, "answers.1: Field required"),
        ({**PICK, "answers": "ab"}, "answers: Input should be a valid"),
        ({**PICK, "answers": ["a", 3]}, "answers.1: Input should be a valid string, found 3"),
        ({**PICK, "answers": ["a", "x" * 1_000_001]}, "answers.1: String should have at most 1000000"),
        ({**PICK, "seeds": [1, 2**70]}, "seeds.1"),
        ({**PICK, "messages": []}, "messages"),
        ({**PICK, "messages": [{"role": "user"}]}, "message 0 is no {role, content}"),
        ({**PICK, "messages": [{"role": "bot", "content": "Hi"}]}, "message 0 is no {role, content}"),
        ({**PICK, "messages": [{"role": "assistant", "content": "Hi"}]}, "there is nothing to answer"),
        ({**RATING, "rating": None}, "rating and edited are both null"),
        ({**RATING, "rating": 5}, "rating: Input should be 1 or -1, found 5"),
        ({**RATING, "step": 1.5}, "step"),
        (b'{"version": 1, "kind": "rating", "answer": "\\ud800"}', "Invalid JSON"),
        (b"x" * (LONGEST_LINE + 2), "more than 16,777,216 bytes"),
        ({**HEAD, "kind": "placed", "user": "a", "probabilities": {"b": 7}, "nobody": 0}, "probabilities.b"),
        ({**HEAD, "kind": "placed", "user": "a", "probabilities": [], "nobody": 0}, "probabilities"),
        ({**HEAD, "kind": "placed", "user": "a", "probabilities": {}, "nobody": math.nan}, "nobody"),
        ({**HEAD, "kind": "undo", "undone": "gone"}, "no earlier pick has the id 'gone'"),
        ({**PICK, "id": "good"}, "line 1 has 'good', too"),
    ],
)
def test_a_broken_line_is_named_and_costs_no_other(path: Path, row: Any, said: str) -> None:
    write(path, {**PICK, "id": "good"}, row, {**PICK, "id": "c"})
    found = read_feedback(path)
    assert [record.id for record in found.picks] == ["good", "c"]
    (problem,) = found.problems
    assert problem.line == 2
    assert said in problem.detail
    assert found.notes == (f"{path}:2: {problem.reason} ({problem.detail}); it is skipped.",)
    assert found.notes[0].isprintable()
    assert len(found.notes[0]) < len(str(path)) + 400


def test_of_many_broken_lines_the_first_are_shown_and_the_others_counted(path: Path) -> None:
    write(path, *[b"{"] * 9, PICK)
    notes = read_feedback(path).notes
    assert [note.split(": ")[0] for note in notes[:5]] == [f"{path}:{n}" for n in range(1, 6)]
    assert notes[5:] == (f"{path}: 4 more broken lines are skipped.",)


def test_keys_of_later_versions_are_passed_over(path: Path) -> None:
    write(path, {**PICK, "mood": "good"})
    assert len(read_feedback(path).picks) == 1


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_no_bytes_at_all_stop_the_reader(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "taste.jsonl"
    path.write_bytes(b"\n".join(lines))
    found = read_feedback(path)
    assert found.picks == found.ratings == ()


def test_a_character_that_is_none_costs_itself_only(path: Path) -> None:
    append(path, Rating(messages=MESSAGES, answer="Caf\udce9", rating=1))
    assert read_feedback(path).ratings[0].answer == "Caf\ufffd"


def test_nothing_is_written_through_a_link(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("mine\n")
    path.symlink_to(other)
    with pytest.raises(PathError, match="is a link"):
        append(path, pick())
    assert other.read_text() == "mine\n"


def test_a_pipe_and_a_folder_are_refused(path: Path, tmp_path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(PathError, match="no regular file"):
        append(path, pick())
    with pytest.raises(DataError, match="no regular file"):
        read_feedback(path)
    with pytest.raises(DataError, match="no regular file"):
        read_feedback(tmp_path)
    with pytest.raises(PgrpoError, match="could not be written: Is a directory"):
        append(tmp_path, pick())


def test_a_full_disk_is_said() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    with pytest.raises(PathError, match="no regular file"):
        append(Path("/dev/full"), pick())


def test_a_missing_file_names_the_commands_that_write_one(path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file") as caught:
        read_feedback(path)
    assert "pgrpo taste" in str(caught.value)


@pytest.mark.parametrize("text", ["", "  ", "a\nb", "\x1b[2J", "x" * 201, "\udcff"])
def test_a_name_can_be_shown(text: str) -> None:
    with pytest.raises(DataError, match=r"^--user: "):
        checked_name(text, "--user")
    assert checked_name("ana 2", "--user") == "ana 2"


@pytest.mark.parametrize("names", [["a", "b"], ["b", "a"]])
def test_in_a_file_its_order_says_which_rating_is_the_last(tmp_path: Path, names: list[str]) -> None:
    """The clock was set back between the second rating and the third; a copy is older than that one."""
    times = ["03:00:00", "03:00:10", "02:59:50"]
    ratings = [
        Rating.model_validate({**FORM, "id": str(n), "time": f"2026-11-30T{time}+00:00", "rating": liked})
        for n, (time, liked) in enumerate(zip(times, (-1, 1, -1), strict=True))
    ]
    for name, count in (("a", 3), ("b", 2)):
        for rating in ratings[:count]:
            append(tmp_path / name, rating)
    (last,) = read_feedback(tmp_path / "a").ratings
    assert last.id == "2"
    assert read_several([tmp_path / "a"])[tmp_path / "a"].ratings == (last,)
    found = read_several([tmp_path / name for name in names])
    assert (found[tmp_path / "a"].ratings, found[tmp_path / "b"].ratings) == ((last,), ())


def test_of_several_files_the_time_says_which_rating_is_the_last(tmp_path: Path) -> None:
    for name, time in (("a", "03:00:10"), ("b", "03:00:00")):
        rating = {**FORM, "id": name, "time": f"2026-11-30T{time}+00:00"}
        append(tmp_path / name, Rating.model_validate(rating))
    found = read_several([tmp_path / "a", tmp_path / "b"])
    assert [len(found[tmp_path / name].ratings) for name in "ab"] == [1, 0]
