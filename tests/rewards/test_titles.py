"""Titles find themselves however they are written, and nothing else."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pgrpo_cli.rewards.mentions import find_mentions, outside_quotations, place
from pgrpo_cli.rewards.titles import Title, read_title


def title(text: str) -> Title:
    found = read_title(text)
    assert found is not None
    return found


def named(text: str, *titles: str, ignore_year: bool = False) -> list[set[str]]:
    """The titles that each mention may stand for, in order."""
    read = [title(spelt) for spelt in titles]
    return [
        {titles[i] for i in mention.titles} for mention in find_mentions(text, read, ignore_year=ignore_year)
    ]


@pytest.mark.parametrize(
    ("spelt", "text"),
    [
        ("Matrix, The (1999)", "the matrix"),
        ("Matrix, The (1999)", "I suggest The Matrix."),
        ("The Matrix", "Matrix, The (1999)"),
        ("Amélie", "AMELIE"),
        ("Amelie", "Watch Amélie tonight"),
        ("Amélie", unicodedata.normalize("NFD", 'Watch "Amélie" tonight')),
        ("Spider-Man", "spider man"),
        ("Spider-Man", "Spiderman is fun"),
        ("WALL·E (2008)", "WALL-E"),
        ("A.I. Artificial Intelligence (2001)", "ai: artificial intelligence"),
        ("Schindler's List", "schindlers list"),
        ("Fast & Furious", "Fast and Furious"),
        ("Good, the Bad and the Ugly, The (1966)", "The Good, The Bad & The Ugly"),
        ("Haine, La (1995)", "la haine"),
        ("La Haine", "Haine, La (1995)"),
        ("L'Atalante", "Atalante, L'"),
        ("Atalante, L' (1934)", "I loved L’Atalante."),
        ("Seven (a.k.a. Se7en) (1995)", "try Se7en"),
        ("Seven (a.k.a. Se7en) (1995)", "Seven"),
        ("Creep (Acoustic)", "Creep"),
        ("1984 (Nineteen Eighty-Four) (1984)", "Watch 1984 (Nineteen Eighty-Four) (1984) again."),
        ("Them! (1954)", "1. **Them!** - great"),
        ("Creep (Acoustic)", "creep (acoustic)"),
        ("The The", "the the"),
        ("A (2020)", "A"),
        ("2001: A Space Odyssey (1968)", "2001 - a space odyssey"),
        ("Blade Runner 2049", "Blade Runner 2049 (2017)"),
        ("Ça", "ça"),
        ("Straße", "STRASSE"),
        ("千と千尋の神隠し", "私は千と千尋の神隠しが好きです"),
        ("Persona Paul", "私はPersona Paulが好きです"),
        ("기생충", "나는 기생충을 좋아한다"),
        ("Война и мир", "Лучшая книга: война и мир!"),
        ("राम की कथा", "आज “राम की कथा” देखो"),
        ("राम की कथा", "राम-की-कथा"),
        ("ी abc\u200d def", "ी abc\u200d def"),
        ("カ", unicodedata.normalize("NFD", "映画カ")),
        ("snake_case", "snake case"),
        ("I Vitelloni", "Vitelloni, I (1953)"),
        ("O Brother, Where Art Thou? (2000)", "o brother where art thou"),
        ("What the #$*! Do We Know!? (2004)", "What the #$*! Do We Know!?"),
        ("What the #$*! Do We Know!? (2004)", "what the - do we know"),
        ("Wait....what", "wait....what"),
    ],
)
def test_a_title_is_found(spelt: str, text: str) -> None:
    assert named(text, spelt) == [{spelt}]


@pytest.mark.parametrize(
    ("spelt", "text"),
    [
        ("It (2017)", "the italics in italics"),
        ("It (2017)", "I like it. It is good, isn't it? It's fine."),
        ("It (2017)", "I LOVE IT"),
        ("It (2017)", "We say It's fine"),
        ("Up (2009)", "Up to you, what's up"),
        ("Heat (1995)", "feel the heat"),
        ("Heat (1995)", "Heater, Cheat and Heats"),
        ("9 (2009)", "I give it 9 of 10"),
        ("1984", "back in 1984 we"),
        ("M (1931)", "J. M. Barrie, M people"),
        ("Die Hard", "a hard one"),
        ("Matrix, The (1999)", "The Matrix (2021)"),
        ("Matrix, The (1999)", "the matrix 2003"),
        ("Them! (1954)", "look at them! (all of them)"),
        ("Star Wars", "Star.\nWars"),
        ("Her (2013)", "He gave her his book"),
        ("राम", "आज रामायण देखो"),
        ("राम", "रिम"),
        ("カ", "映画ガ"),
        ("カ", unicodedata.normalize("NFD", "映画ガ")),
        ("Vitelloni, I (1953)", "Vitelloni"),
        ("As Good as It Gets", "Good as It Gets"),
    ],
)
def test_what_is_no_title_is_not_found(spelt: str, text: str) -> None:
    assert named(text, spelt) == []


@pytest.mark.parametrize(
    "text",
    ["it", "It!", '"it"', "I saw “It” twice", "*it*", "**It**", "_it_", "it (2017)", "1. it", "- It, a film",
     "2) It: scary", "We watched It together.", "films:\n  it\n", "* it - from 2017", "I saw 'It' twice",
     "We saw it (2017) twice.", "(it)", "the it", "I hear It (2017-) is good", "the “it”", "- *It*: good"],
)  # fmt: skip
def test_a_function_word_counts_where_it_is_set_apart(text: str) -> None:
    assert named(text, "It (2017)") == [{"It (2017)"}]


def test_an_accent_of_its_own_belongs_to_the_letter_before_it() -> None:
    # The title folds to "he"; its accent stands between the last letter and the closing mark.
    assert named(unicodedata.normalize("NFD", "I saw “hé” twice"), "Hé") == [{"Hé"}]


def test_a_wrong_year_counts_only_where_years_are_ignored() -> None:
    assert named("Try Heat (1986).", "Heat (1995)") == []
    assert named("Try Heat (1986).", "Heat (1995)", ignore_year=True) == [{"Heat (1995)"}]
    assert named("Try Heat (1986).", "Heat") == [{"Heat"}]


def test_a_year_tells_titles_of_one_name_apart() -> None:
    titles = ("It (1990)", "It (2017)")
    assert named("It (1990)", *titles) == [{"It (1990)"}]
    assert named("It", *titles) == [set(titles)]
    assert named("It (2001)", *titles) == []


def test_the_longest_title_wins() -> None:
    titles = ("Alien", "Aliens", "Alien 3", "Alien: Covenant")
    assert named("Alien 3, Aliens, alien covenant, Alien", *titles) == [
        {"Alien 3"}, {"Aliens"}, {"Alien: Covenant"}, {"Alien"}
    ]  # fmt: skip
    assert named("The Matrix Reloaded", "The Matrix", "The Matrix Reloaded") == [{"The Matrix Reloaded"}]
    # The longer one is the one named, though its year is wrong.
    assert named("Alien 3 (1999)", "Alien", "Alien 3 (1992)") == []


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("“The Matrix Reloaded”", False),
        ("“The Matrix”", True),
        ("“Matrix, The (1999)”", True),
        ("“I like The Matrix. It is great”", True),
        ("*The Matrix Reloaded* and The Matrix", True),
        ("The Matrix Reloaded", True),
    ],
)
def test_quotations_count_as_a_whole(text: str, kept: bool) -> None:
    matrix = [title("Matrix, The (1999)")]
    assert bool(outside_quotations(text, find_mentions(text, matrix), matrix)) is kept


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Heat", 1),
        ("Alien, Ronin and Heat", 3),
        ("1. Alien, a film, and more\n2. Heat", 2),
        ("Sure, here, for you, are:\n- Heat\n- Alien", 1),
        ('Try "Alien", which is good, or "Heat"', 2),
        ("Alien\nRonin\nHeat", 3),
    ],
)
def test_the_place_of_a_title(text: str, expected: int) -> None:
    (mention,) = find_mentions(text, [title("Heat")])
    assert place(text, mention) == expected


def test_the_beginning_of_a_word_is_no_separator() -> None:
    # Found by chance: "OR" counted as one where the title, in a script without blanks, follows at once.
    titles = [title("千と千尋の神隠し"), title("'night, Mother")]
    text = "OR千と千尋の神隠し/NIGHT:MOTHER"
    assert [place(text, mention) for mention in find_mentions(text, titles)] == [1, 1]


@pytest.mark.parametrize("text", ["", "???", "...", "x" * 301])
def test_what_cannot_be_looked_for_is_no_title(text: str) -> None:
    assert read_title(text) is None


WORDS = st.text("abcdeghilmnorstué", min_size=2, max_size=7) | st.sampled_from(
    ["it", "Her", "1984", "9", "Spider-Man", "O'Neil", "Ça", "of", "Part", "2"]
)
TITLES = st.lists(WORDS, min_size=1, max_size=4).map(lambda words: " ".join(words).capitalize())


def key(text: str) -> str:
    return title(text).pattern.pattern


@st.composite
def decorated(draw: st.DrawFn, spelt: str, year: int) -> str:
    """The title alone in a completion, written another way."""
    text = draw(st.sampled_from([str.upper, str.lower, str.title, str]))(spelt)
    if draw(st.booleans()):
        text = "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))
    text = text.replace(" ", draw(st.sampled_from([" ", "  ", " - ", ": ", ", "])))
    text = text.replace("-", draw(st.sampled_from(["-", "–", " ", ""])))
    text = text.replace("'", draw(st.sampled_from(["'", "’", ""])))
    text = draw(st.sampled_from(["{}", "The {}", "a {}", "{}, The", "{}, A"])).format(text)
    text += draw(st.sampled_from(["", f" ({year})", f" [{year}]"]))
    around = draw(
        st.sampled_from(["{}", '"{}"', "“{}”", "*{}*", "**{}**.", "1. {}", "- {}", "{}!", "  {}\n"])
    )
    return around.format(text)


@given(st.data(), TITLES, st.integers(1900, 2030))
def test_a_title_finds_itself_however_it_is_written(data: st.DataObject, spelt: str, year: int) -> None:
    text = data.draw(decorated(spelt, year))
    with_year = f"{spelt} ({year})"
    assert named(text, with_year) == [{with_year}]
    assert named(text, spelt) == [{spelt}]


@given(st.data(), TITLES, TITLES, st.integers(1900, 2030))
def test_a_title_never_stands_for_another_one(data: st.DataObject, spelt: str, other: str, year: int) -> None:
    assume(key(spelt) != key(other))
    text = data.draw(decorated(spelt, year))
    assert named(text, other, spelt) == [{spelt}]
