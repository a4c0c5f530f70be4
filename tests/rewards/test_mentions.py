"""Whatever a model writes can be searched for titles, in a time that grows as the text does."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.rewards.mentions import find_mentions, outside_quotations, place
from pgrpo_cli.rewards.titles import MAX_LENGTH, Title, read_title

SPELT = (
    *("Matrix, The (1999)", "It (2017)", "It (1990)", "Up", "I, Robot (2004)", "A", "a b", "1984 (1984)"),
    *("'night, Mother", "Who's Afraid?", "L'Atalante (a.k.a. Atalante) (1934)", "千と千尋の神隠し", "ﷺ ß"),
)
TITLES = [title for title in map(read_title, SPELT) if title is not None]

pieces = st.sampled_from(
    (
        *(*SPELT, "the ", "The\n", "it", " ", "\n", "  \n", ". ", "(", "[", '"', "“", "”", "'", "*", "_"),
        *("- ", "1. ", "(2017)", " 1990", "and ", "or", ", ", "; ", "\t", "…", "’s", "\u0301", "\ud800"),
    )
)
texts = st.text(max_size=60) | st.lists(pieces, max_size=12).map("".join)


def look(text: str, titles: list[Title]) -> None:
    """All that a reward asks of a text."""
    mentions = find_mentions(text, titles)
    assert [mention.start for mention in mentions] == sorted({mention.start for mention in mentions})
    for mention in mentions:
        assert mention.titles
        assert 0 <= mention.start < len(text)
    kept = outside_quotations(text, mentions, titles)
    assert set(kept) <= set(mentions)
    places = [place(text, mention) for mention in mentions[:5]]
    # The reward takes the first mention's for the least.
    assert places == sorted(places)
    assert all(found >= 1 for found in places)


@given(texts)
def test_any_text_can_be_looked_through(text: str) -> None:
    look(text, TITLES)


@given(texts, texts)
def test_any_text_is_a_title_or_none_and_finds_itself(spelt: str, text: str) -> None:
    title = read_title(spelt)
    if title is not None:
        look(text + spelt, [title, *TITLES])


SHAPES = (
    *(
        "The Matrix ",
        "It ",
        "it, ",
        "Up. ",
        "a b ",
        "A-",
        "1984 ",
        "Up (1999) ",
        "((((((((It",
        "*It",
        "_It_ ",
    ),
    *("- Up\n", "'a b' ", '"Up ', "“Up", "Up" + " " * 20, "It, the ", "and or ", "It\n", "Up…"),
    *('"', "'", "“", "*", "(", "\n", " ", "\t", "_", "-", ".", "…", ",", "\n ", "\u0301", "ﷺ", "\U0001f600"),
)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_text_that_repeats_itself_takes_a_time_that_grows_as_it_does(shape: str) -> None:
    text = (shape * 20_000)[:20_000]
    # Quotes before each of thousands of matches, and matches after thousands of quotes.
    start = time.process_time()
    look(text, TITLES)
    look(text[:10_000] + "It is Up " * 1000, TITLES)
    # Ten times what it takes here; in proportion to its square it would take several seconds.
    assert time.process_time() - start < 2


LONG = (
    "a,",
    "a, ",
    "(a",
    "(aka ",
    "(a.k.a. b)",
    "l'",
    "the ",
    "(1999)",
    "a ",
    "_",
    "’",
    "a, the ",
    "日",
    "&",
    "ﷺ",
)


@pytest.mark.parametrize("shape", LONG)
def test_a_long_title_is_read_at_once(shape: str) -> None:
    seconds = []
    for _ in range(3):
        start = time.process_time()
        read_title.__wrapped__((shape * MAX_LENGTH)[:MAX_LENGTH])
        seconds.append(time.process_time() - start)
    # The least of three: a collection of the test process's garbage alone takes half a second.
    assert min(seconds) < 0.2
