from collections import Counter
from pathlib import Path

import pytest

from pgrpo_cli.data.sources.context import ReadContext
from pgrpo_cli.data.sources.persona_texts import EVAL_SITUATIONS, PLAYS, QUOTES, TRAIN_SITUATIONS
from pgrpo_cli.data.sources.personas import read_personas
from pgrpo_cli.recipe.sources import PersonasSource
from pgrpo_cli.rewards.personas import CORE_PATTERNS, MOOD_PATTERNS, PERSONAS
from pgrpo_cli.rewards.styles import STYLES, textness
from pgrpo_cli.rewards.text import distinct_hits, listed_terms

# Words that would give a style away, in any of their forms.
STYLE_NAMES = listed_terms(
    """
    terse*, short*, brief*, concise*, few words, flowing, long sentence*, excit*, enthusias*, exclamation*,
    question*, ask*, bullet*, list, lists, dash*, capital*, upper case, shout*, caps, formal*, polite*,
    style*, tone*
    """
)


def read(prompts=640, per_group=8, seed=0):
    source = PersonasSource(prompts=prompts, eval_prompts_per_group=per_group)
    return read_personas(source, ReadContext(Path(), seed))


def text_of(record):
    return "\n".join(message["content"] for message in record.messages)


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        # 0.5, 0.17, 0.12, 0.08, 0.06, 0.04, 0.03 of 100
        (100, [50, 17, 12, 8, 6, 4, 3]),
        # of 640: 320, 108.8, 76.8, 51.2, 38.4, 25.6, 19.2: the three largest remainders are rounded up
        (640, [320, 109, 77, 51, 38, 26, 19]),
        # the least: one each
        (7, [1, 1, 1, 1, 1, 1, 1]),
        # of 12: 6, 2.04, 1.44, 0.96, 0.72, 0.48, 0.36, but at least one each
        (12, [5, 2, 1, 1, 1, 1, 1]),
    ],
)
def test_training_frequencies_follow_the_shares(prompts, expected):
    counts = Counter(record.preference_group for record in read(prompts).train)
    assert [counts[name] for name in PERSONAS] == expected


@pytest.mark.parametrize("per_group", [1, 8, 11])
def test_every_persona_has_its_held_out_prompts(per_group):
    counts = Counter(record.preference_group for record in read(per_group=per_group).eval)
    assert counts == dict.fromkeys(PERSONAS, per_group)


def test_the_same_seed_gives_the_same_prompts_and_another_one_others():
    assert read(seed=3) == read(seed=3)
    assert read(seed=3).train != read(seed=4).train
    assert {record.prompt_id for record in read(seed=3).train} == {
        record.prompt_id for record in read(seed=4).train
    }


def test_ids_are_unique_and_most_texts_differ():
    data = read()
    records = (*data.train, *data.eval)
    assert len({record.prompt_id for record in records}) == len(records)
    assert len({text_of(record) for record in records}) > 0.95 * len(records)


def test_no_situation_is_in_training_and_held_out():
    assert not set(TRAIN_SITUATIONS) & set(EVAL_SITUATIONS)
    data = read()
    for records, own, other in (
        (data.train, TRAIN_SITUATIONS, EVAL_SITUATIONS),
        (data.eval, EVAL_SITUATIONS, TRAIN_SITUATIONS),
    ):
        assert {record.columns["situation"] for record in records} == set(own)
        assert not [text for record in records for text in other if text in text_of(record)]


def test_no_prompt_holds_a_word_of_any_genre():
    patterns = [
        pattern for table in (CORE_PATTERNS, MOOD_PATTERNS) for genre in table.values() for pattern in genre
    ]
    data = read()
    for record in (*data.train, *data.eval):
        assert not distinct_hits(patterns, text_of(record)), text_of(record)


@pytest.mark.parametrize("genre", CORE_PATTERNS)
def test_no_text_that_a_prompt_may_hold_has_a_word_of_any_genre(genre):
    texts = [*sum(PLAYS.values(), ()), *sum(QUOTES.values(), ()), *TRAIN_SITUATIONS, *EVAL_SITUATIONS]
    for text in texts:
        assert not distinct_hits(CORE_PATTERNS[genre] + MOOD_PATTERNS[genre], text), text


def test_no_prompt_names_a_style_or_a_persona():
    data = read()
    for record in (*data.train, *data.eval):
        assert not distinct_hits(STYLE_NAMES, text_of(record)), text_of(record)
        assert not any(name in text_of(record).lower() for name in PERSONAS)


def test_the_profile_shows_artists_and_liked_replies_of_the_persona_and_a_disliked_one_of_another():
    for record in read().train:
        persona, text = PERSONAS[record.preference_group], text_of(record)
        shown = {genre: sum(artist in text for artist in artists) for genre, artists in PLAYS.items()}
        assert 2 <= shown.pop(persona.genre) <= 3
        assert not any(shown.values())
        quoted = {style: sum(quote in text for quote in quotes) for style, quotes in QUOTES.items()}
        assert 1 <= quoted.pop(persona.style) <= 2
        assert sorted(quoted.values()) == [0, 0, 0, 0, 0, 1]
        assert text.count("disliked") == 1
        assert record.messages[-1]["role"] == "user"
        assert record.columns["situation"] in record.messages[-1]["content"]


@pytest.mark.parametrize("style", QUOTES)
def test_quoted_replies_are_in_their_style(style):
    assert QUOTES.keys() == STYLES.keys()
    for quote in QUOTES[style]:
        scores = {name: STYLES[name](quote) * max(textness(quote), 0.5) for name in STYLES}
        # Any short reply is terse: a quote is of that style if it has nothing of the others.
        rivals = max(score for name, score in scores.items() if name not in (style, "terse"))
        assert scores[style] > rivals + (0.4 if style == "terse" else 0.0), (quote, scores)


def test_every_genre_has_artists_that_no_other_genre_has():
    artists = [artist for genre in PLAYS.values() for artist in genre]
    assert len(artists) == len(set(artists))
    assert {len(genre) for genre in PLAYS.values()} == {12}


def test_prompts_are_short():
    # In words; a chat model's tokenizer makes about twice as many tokens of them with its chat template.
    lengths = [len(text_of(record).split()) for record in read().train]
    assert max(lengths) <= 100
    assert 40 <= sum(lengths) / len(lengths) <= 70
