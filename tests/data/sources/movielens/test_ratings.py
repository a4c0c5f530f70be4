import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.data.sources.movielens import collection as collection_module
from pgrpo_cli.data.sources.movielens.collection import find_collection
from pgrpo_cli.data.sources.movielens.ratings import read_ratings
from pgrpo_cli.data.sources.rejections import Rejections
from pgrpo_cli.errors import DataError
from tests.support.movielens import HEADERS, collection

FILMS = np.arange(1, 51, dtype=np.int32)
GOOD = [b"1,1,4.0,10", b"1,2,4.5,20", b"2,3,0.5,5", b"2,4,5,5", b"3,50,1.0,0"]


def read(folder, *rows, style="csv", films=FILMS):
    path = collection(folder / "ml", [(1, 1, 4, 1)], style=style)
    header = [HEADERS["ratings"].encode()] if style == "csv" else []
    (path / f"ratings.{style}").write_bytes(b"\n".join([*header, *rows]))
    found, rejections = find_collection("ml", folder, with_tags=False), Rejections()
    return read_ratings(found.ratings, found.layout, films, rejections), rejections.rows()


def listed(ratings):
    """(user, film, half stars, time, line) of every rating."""
    user = np.repeat(ratings.user_ids_U, np.diff(ratings.starts_U1))
    columns = (user, FILMS[ratings.film_N], ratings.half_stars_N, ratings.time_N, ratings.line_N)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_ratings_are_sorted_by_user_time_and_film_and_know_their_lines(tmp_path):
    ratings, rejected = read(tmp_path, b"9,3,4,7", b"2,8,3.5,9", b"9,4,1,5", b"2,6,0.5,9", b"9,1,5.0,7")
    assert listed(ratings) == [
        (2, 6, 1, 9, 5),
        (2, 8, 7, 9, 3),
        (9, 4, 2, 5, 4),
        (9, 1, 10, 7, 6),
        (9, 3, 8, 7, 2),
    ]
    assert ratings.user_ids_U.tolist() == [2, 9]
    assert ratings.starts_U1.tolist() == [0, 2, 5]
    assert rejected == ()
    types = (ratings.user_ids_U, ratings.film_N, ratings.half_stars_N, ratings.time_N, ratings.line_N)
    assert [column.dtype for column in types] == [np.int32, np.int32, np.int8, np.uint32, np.int32]


def test_dat_files_have_no_header_and_two_colons(tmp_path):
    ratings, _ = read(tmp_path, b"1::2::4::30", b"", b"1::3::4.5::20\r", b"2::2::1::8", style="dat")
    assert listed(ratings) == [(1, 3, 9, 20, 3), (1, 2, 8, 30, 1), (2, 2, 2, 8, 4)]
    with pytest.raises(DataError, match=r"ml/ratings\.dat:2 is '1,3,4,5'; .* with '::' in between"):
        read(tmp_path, b"1::2::4::30", b"1,3,4,5", b"2::2::1::8", style="dat")


NO_RATINGS = [
    b"1,2,3",
    b"1,2,3,4,5",
    b"a,2,3,4",
    b"1,,3,4",
    b"\xff\xfe,2,3,4",
    b'"1,2,3,4',
    b"1,2,3,4\r5,6,7,8",
    b"99999999999999999999,2,3,4",
    b"  ",
]
IMPOSSIBLE = {
    b"0,2,3,4": "user id out of range",
    b"3000000000,2,3,4": "user id out of range",
    b"1,2,5.5,4": "rating is no half or whole star from 0.5 to 5",
    b"1,2,0,4": "rating is no half or whole star from 0.5 to 5",
    b"1,2,4.2,4": "rating is no half or whole star from 0.5 to 5",
    b"1,2,nan,4": "rating is no half or whole star from 0.5 to 5",
    b"1,2,3,-1": "time is no number of seconds since 1970",
    b"1,2,3,4294967294": None,
    b"1,2,3,4294967295": "time is no number of seconds since 1970",
    b"1,2,3,964982703000": "time is no number of seconds since 1970",
    b"1,51,3,4": "film is not in the collection's table of films",
}


@pytest.mark.parametrize("size", [8, 10_000])
@pytest.mark.parametrize("row", NO_RATINGS)
def test_a_file_with_a_line_that_is_no_rating_is_refused_with_the_line(tmp_path, monkeypatch, row, size):
    monkeypatch.setattr(collection_module.blocks, "__defaults__", (size,))
    with pytest.raises(DataError, match=r"^ml/ratings\.csv:5 is .*; a rating is a user, a film, "):
        read(tmp_path, b"7,1,4.0,10", b"7,2,4.5,20", b"", row, b"8,3,0.5,5", row)


@pytest.mark.parametrize(("row", "reason"), IMPOSSIBLE.items())
def test_a_row_with_an_impossible_value_is_named_and_costs_no_other(tmp_path, row, reason):
    ratings, rejected = read(tmp_path, b"7,1,4.0,10", b"", row, b"8,3,0.5,5")
    kept = [line for *_, line in listed(ratings)]
    assert sorted(kept) == ([2, 4, 5] if reason is None else [2, 5])
    if reason is not None:
        assert [(found.where, found.reason) for found in rejected] == [("ml/ratings.csv:4", reason)]


def test_a_film_rated_again_counts_as_rated_first(tmp_path):
    ratings, rejected = read(tmp_path, b"1,2,4,30", b"1,3,4,10", b"1,2,2,20", b"1,2,5,20", b"2,2,3,1")
    assert listed(ratings) == [(1, 3, 8, 10, 3), (1, 2, 4, 20, 4), (2, 2, 6, 1, 6)]
    assert [(row.line, row.reason) for row in rejected] == [
        (2, "film rated again by the same user"),
        (5, "film rated again by the same user"),
    ]


@given(
    st.lists(
        st.sampled_from([*GOOD, *IMPOSSIBLE, b"", b"\r", b"4,5,3.5,60", b"4, 6,3.5 ,61"]),
        max_size=30,
    ),
    st.sampled_from([8, 40, 10_000]),
)
def test_every_line_is_read_as_if_it_stood_alone(tmp_path_factory, lines, size):
    """What a line becomes depends neither on its neighbours nor on where blocks end."""
    enough = [b"9,%d,3,%d" % (film, film) for film in range(1, 50)]
    folder = tmp_path_factory.mktemp("ratings")
    alone = {}
    for line in set(lines):
        ratings, rejected = read(folder, *enough, line)
        alone[line] = [row[:4] for row in listed(ratings) if row[4] == 51], [row.reason for row in rejected]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collection_module.blocks, "__defaults__", (size,))
        ratings, rejected = read(folder, *enough, *lines)
    found = {line: row[:4] for *row, line in listed(ratings)}
    reasons = {row.line: row.reason for row in rejected}
    for number, line in enumerate(lines, start=51):
        rows, problems = alone[line]
        if number in found:
            assert [tuple(found[number])] == rows
        elif reasons.get(number) == "film rated again by the same user":
            assert len(rows) == 1 or problems == ["film rated again by the same user"]
        else:
            assert ([reasons[number]] if number in reasons else []) == problems
    assert len(found) + len(reasons) == 49 + sum(any(alone[line]) for line in lines)


def test_another_header_is_refused(tmp_path):
    path = collection(tmp_path / "ml", [(1, 1, 4, 1)])
    (path / "ratings.csv").write_bytes(b"user;film;rating;time\n1;2;3;4\n")
    found = find_collection("ml", tmp_path, with_tags=False)
    with pytest.raises(
        DataError, match=r"ml/ratings\.csv:1 is 'user;film;rating;time'; MovieLens's header is"
    ):
        read_ratings(found.ratings, found.layout, FILMS, Rejections())


def test_a_file_of_mostly_broken_rows_is_refused(tmp_path):
    with pytest.raises(DataError) as caught:
        read(tmp_path, b"1,2,3,4", b"1,3,9,4", b"1,4,9,4")
    assert "2 of the 3 rows of ml/ratings.csv are broken; the first: ml/ratings.csv:3" in str(caught.value)


@pytest.mark.parametrize("rows", [[], [b""]])
def test_a_file_without_ratings_is_refused(tmp_path, rows):
    with pytest.raises(DataError, match="has no ratings"):
        read(tmp_path, *rows)
