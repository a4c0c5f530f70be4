"""Ids and their rows: a dict is the model, with hashes as they come and with hashes that collide."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pgrpo_cli.algo import ids as module
from pgrpo_cli.algo.ids import Ids, numbered

HASHES = {
    "as they come": hash,
    "all alike": lambda data: 0,
    "three": lambda data: len(data) % 3,
    "negative": lambda data: -1 - len(data),
}
each_hash = pytest.mark.parametrize("hash_", HASHES.values(), ids=HASHES.keys())

# Surrogates too: JSON may escape half of a pair, and Python keeps it.
texts = st.text(st.characters(exclude_categories=()), max_size=4)
# Few letters, so that ids repeat, are prefixes of each other, and stand in the text across borders of others.
keys = st.lists(st.text("ab", max_size=3) | texts, max_size=40)


@each_hash
@settings(deadline=None, max_examples=60)
@given(batches=st.lists(keys, max_size=4), asked=keys)
def test_rows_are_those_of_a_dict(hash_, batches, asked):
    model: dict[str, int] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "hash", hash_, raising=False)
        ids = Ids()
        for batch in batches:
            assert ids.ensure_rows(batch) == [model.setdefault(key, len(model)) for key in batch]
        assert ids.rows(asked) == [model.get(key, -1) for key in asked]
        assert [key in ids for key in asked] == [key in model for key in asked]
        assert ids.rows(model) == list(model.values())
        restored = Ids.of_state(*ids.state())
        assert restored.ensure_rows([*asked, *model]) == ids.ensure_rows([*asked, *model])
        assert list(restored) == list(ids)
    assert list(ids)[: len(model)] == list(model)
    assert [ids[row] for row in model.values()] == list(model)


def test_growth_keeps_every_row():
    ids, names = Ids(), [f"user-{i * 7919 % 20_000:07d}" for i in range(20_000)]
    for start in range(0, 20_000, 777):
        ids.ensure_rows(names[start : start + 777])
        assert len(ids) == min(start + 777, 20_000)
    assert ids.rows(names) == list(range(20_000))
    assert ids.rows(["user-20000", "user-", ""]) == [-1, -1, -1]
    # 12 of the id, 4 of its end, and 4 a slot of which at least half and at most three quarters are taken.
    assert 16 + 4 / 0.75 <= ids.nbytes / 20_000 <= 16 + 4 / 0.5 + 0.01


def test_an_empty_id_and_a_very_long_one():
    ids = Ids()
    long = "é" * 1_000_000
    assert ids.ensure_rows(["", long, "a", long, long[:-1]]) == [0, 1, 2, 1, 3]
    assert ids.rows(["", long, long + "a"]) == [0, 1, -1]
    assert ids[1] == long
    assert list(Ids.of_state(*ids.state())) == ["", long, "a", long[:-1]]


def test_positions_beyond_what_the_narrow_type_holds(monkeypatch):
    monkeypatch.setattr(module, "_NARROW", "B")  # to 255
    ids = Ids()
    names = ["x" * 100, "y" * 100, "z" * 55, "", "w" * 300, "v"]
    for name in names:
        ids.ensure_rows([name])
    assert ids.rows(names) == [0, 1, 2, 3, 4, 5]
    assert list(Ids.of_state(*ids.state())) == names


def test_what_is_no_string_is_refused_and_nothing_is_added():
    ids = Ids()
    for key in (None, 3, b"a"):
        with pytest.raises(TypeError, match="a preference group is a string, not "):
            ids.ensure_rows(["a", key])
        with pytest.raises(TypeError, match="a preference group is a string, not "):
            ids.rows([key])
    assert list(ids) == []


def test_a_state_shares_nothing_with_the_ids():
    ids = Ids()
    ids.ensure_rows(["one", "two"])
    text, lengths = ids.state()
    restored = Ids.of_state(text, lengths)
    text[0], lengths[0] = 0, 0
    assert list(ids) == list(restored) == ["one", "two"]
    ids.ensure_rows(["three"])
    assert list(restored) == ["one", "two"]


def bytes_(text: str) -> torch.Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("text", "lengths", "message"),
    [
        (bytes_("aabb"), [2, 1], "3 bytes stand in 4"),
        (bytes_("aabb"), [2, 4, -2], "stand in 4"),
        (bytes_("abab"), [2, 2], "1 ids stand there twice"),
        (bytes_("é"), [1, 1], "can't decode"),
        (torch.tensor([0xFF], dtype=torch.uint8), [1], "can't decode"),
        (bytes_("ab").long(), [1, 1], "no bytes"),
        (bytes_("abcd").view(2, 2), [4], "no bytes"),
    ],
)
def test_a_damaged_state_is_refused(text, lengths, message):
    with pytest.raises(ValueError, match=message):
        Ids.of_state(text, torch.tensor(lengths, dtype=torch.int32))


def test_a_state_does_not_depend_on_the_hashes_of_a_process():
    script = (
        "from pgrpo_cli.algo.ids import Ids\n"
        "ids = Ids(); ids.ensure_rows(f'user {i % 97}' for i in range(500))\n"
        "print([part.tolist() for part in ids.state()])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


@given(keys=keys)
def test_numbered_elements_are_those_they_were_made_from(keys):
    distinct, positions = numbered(keys)
    assert distinct == list(dict.fromkeys(keys))
    assert [distinct[i] for i in positions.tolist()] == keys
    assert positions.dtype == torch.int64
