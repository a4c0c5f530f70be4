"""What is left of the base model, by hand arithmetic."""

from __future__ import annotations

import math

import pytest

from pgrpo_cli.stats.completions import distinct, kept_of, kl_values
from pgrpo_cli.stats.estimates import Resampler
from pgrpo_cli.stats.intervals import Bootstrap
from tests.support.results import rows_of

SHAPE = {"calm": {"a": [0.0, 0.0], "b": [0.0]}, "loud": {"x": [0.0]}}


def test_distinct_words_and_pairs() -> None:
    # Of 6 words 3 are different; of the pairs the-cat, cat-the, the-dog and again the-cat 3 of 4.
    texts = ["The cat the dog", "the cat"]
    assert distinct(texts, 1) == pytest.approx(3 / 6)
    assert distinct(texts, 2) == pytest.approx(3 / 4)
    assert math.isnan(distinct(["", "one"], 2))


def test_kl_is_a_token_and_by_prompt() -> None:
    rows = rows_of("base", SHAPE) + rows_of("tuned", SHAPE)
    tuned = [row for row in rows if row.which == "tuned"]
    # a: 0.1 over 2 tokens and 0.4 over 6: (0.2 + 2.4) / 8 = 0.325.
    numbers = [(0.1, 2), (0.4, 6), (0.2, 5), (math.nan, 5)]
    made = [row.model_copy(update={"kl": k, "length": n}) for row, (k, n) in zip(tuned, numbers, strict=True)]
    assert kl_values(made) == {"calm": {"a": pytest.approx(0.325), "b": pytest.approx(0.2)}}
    kept = kept_of([*rows[:4], *made], {"base": 8.0, "tuned": 9.0}, Resampler(Bootstrap(100)))
    assert kept.kl.mean == pytest.approx(0.2625) and kept.kl.n == 2
    assert list(kept.groups) == ["calm"]


def test_how_a_model_writes() -> None:
    rows = rows_of("base", SHAPE, text="a b a") + rows_of("tuned", SHAPE, text="x")
    rows[0] = rows[0].model_copy(update={"length": 12, "finished": False})
    kept = kept_of(rows, {"base": 8.0, "tuned": 9.0}, Resampler(Bootstrap(100)))
    # 4 completions: lengths 12, 8, 8, 8; words a b of 12; pairs a-b b-a of 8.
    assert (kept.base.length, kept.base.truncated) == (9.0, 0.25)
    assert (kept.base.distinct_1, kept.base.distinct_2) == (pytest.approx(2 / 12), pytest.approx(2 / 8))
    assert (kept.base.perplexity, kept.tuned.perplexity) == (8.0, 9.0)
    assert math.isnan(kept.tuned.distinct_2)
