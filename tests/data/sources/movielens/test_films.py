import pytest

from pgrpo_cli.data.sources.movielens.collection import find_collection
from pgrpo_cli.data.sources.movielens.films import _ARTICLES, read_films, shown_title
from pgrpo_cli.data.sources.rejections import Rejections
from pgrpo_cli.errors import DataError
from pgrpo_cli.recipe.reward_text import RecommendationReward
from pgrpo_cli.rewards.base import Completion
from pgrpo_cli.rewards.recommendation import RecommendationFunction
from tests.support.movielens import collection


def read(folder, content, name="movies.csv"):
    style = name.rpartition(".")[2]
    path = collection(folder / "ml", [(1, 1, 4, 1)], style=style)
    (path / name).write_bytes(content)
    found, rejections = find_collection("ml", folder, with_tags=False), Rejections()
    return read_films(found.films, found.layout, rejections), rejections.rows()


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        ("Toy Story (1995)", "Toy Story (1995)"),
        ("Matrix, The (1999)", "The Matrix (1999)"),
        ("Beautiful Mind, A (2001)", "A Beautiful Mind (2001)"),
        ("Misérables, Les (1995)", "Les Misérables (1995)"),
        ("Atalante, L' (1934)", "L'Atalante (1934)"),
        (
            "City of Lost Children, The (Cité des enfants perdus, La) (1995)",
            "The City of Lost Children (La Cité des enfants perdus) (1995)",
        ),
        (
            "Good, the Bad and the Ugly, The (1966)",
            "The Good, the Bad and the Ugly (1966)",
        ),
        ("I, Robot (2004)", "I, Robot (2004)"),
        ("Matrix, The", "The Matrix"),
    ],
)
def test_titles_are_shown_as_a_person_writes_them(title, shown):
    assert shown_title(title) == shown


@pytest.mark.parametrize("article", [*_ARTICLES.split("|"), "L'"])
def test_a_film_that_is_named_as_it_is_shown_is_recommended(article):
    title = f"Vitel Loni, {article} (1953)"
    columns = {"target": title, "candidates": [title, "Heat (1995)"]}
    function = RecommendationFunction(RecommendationReward(candidates_column="candidates"))
    for text in (title, shown_title(title), f"I would watch {shown_title(title)}."):
        (score,) = function([Completion("p", "a", "", text, columns)])
        assert score.parts["hit"] == 1.0


def test_films_are_in_the_order_of_their_ids_with_their_genres(tmp_path):
    films, rejected = read(
        tmp_path,
        b'movieId,title,genres\n7,"Matrix, The (1999)",Action|Sci-Fi\n'
        b'3,"Say ""Hi"" (1990)",(no genres listed)\n' + "5,Amélie (2001),Comedy|Romance|Comedy\r\n".encode(),
    )
    assert films.ids_F.tolist() == [3, 5, 7]
    assert films.titles == ('Say "Hi" (1990)', "Amélie (2001)", "Matrix, The (1999)")
    assert films.genres == ((), ("Comedy", "Romance"), ("Action", "Sci-Fi"))
    assert films.genre_names == ("Action", "Comedy", "Romance", "Sci-Fi")
    assert films.has_genre_FK.tolist() == [
        [False, False, False, False],
        [False, True, True, False],
        [True, False, False, True],
    ]
    assert rejected == ()


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_1m_is_in_latin_1_and_10m_in_utf_8(tmp_path, encoding):
    content = "1::Amélie (2001)::Comedy\n2::Misérables, Les (1995)::Drama\n".encode(encoding)
    films, rejected = read(tmp_path, content, "movies.dat")
    assert films.shown == ("Amélie (2001)", "Les Misérables (1995)")
    assert rejected == ()


GOOD = [b"movieId,title,genres", b"1,One (1990),Drama", b"11,Eleven (1990),Drama", b""]


@pytest.mark.parametrize(
    "row",
    [
        b'2,"Two (1990),Drama',
        b"3,Three (1990)",
        b"3,Three (1990),Drama,3",
        b"x,Four (1990),Drama",
        b",Four (1990),Drama",
        b"7,Se\xffven (1990),Drama",
        b"99999999999999999999,Ten (1990),Drama",
    ],
)
def test_a_file_with_a_line_that_is_no_film_is_refused_with_the_line(tmp_path, row):
    # Behind an open quote stands another one, with which it would make one field.
    rows = [*GOOD, row, b'3,"Three (1990)",Drama', b""]
    with pytest.raises(DataError, match=r"^ml/movies\.csv:5 is '.*; a film is a number, a title and genres"):
        read(tmp_path, b"\n".join(rows))


def test_a_row_with_an_impossible_value_is_named_and_costs_no_other(tmp_path):
    rows = [
        *GOOD,
        b"5,,Drama",
        b"1,Again (1990),Drama",
        b"8,Ei\x07ght (1990),Drama",
        b"99999999999,Ten (1990),Drama",
        b"12,Twelve (1990),Drama",
    ]
    films, rejected = read(tmp_path, b"\n".join(rows))
    assert films.ids_F.tolist() == [1, 11, 12]
    assert {(row.line, row.reason) for row in rejected} == {
        (5, "no title"),
        (6, "film id twice"),
        (7, "no title"),
        (8, "film id out of range"),
    }
    assert {row.file for row in rejected} == {"ml/movies.csv"}


def test_a_table_without_films_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"movies\.csv has no film"):
        read(tmp_path, b"movieId,title,genres\n")
