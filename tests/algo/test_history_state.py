"""Saving, restoring and merging reward histories."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, save

from pgrpo_cli.algo.history import RewardHistory
from pgrpo_cli.algo.memory import Window
from pgrpo_cli.errors import CheckpointError
from tests.support.history import comparable, contents

KINDS = [{"kind": "cumulative"}, {"kind": "ema", "decay": 0.9}, {"kind": "window", "window": 6}]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["kind"])


def feed(history: RewardHistory, seed: int, steps: range) -> None:
    """Steps of 6 prompts with 2 rewards each, some of them missing."""
    for step in steps:
        generator = torch.Generator().manual_seed(seed * 1000 + step)
        rewards = 0.1 + torch.randn(12, generator=generator, dtype=torch.float64)
        rewards[torch.rand(12, generator=generator) < 0.2] = math.nan
        names = [f"group {g}" for g in torch.randint(4, (6,), generator=generator).tolist() for _ in range(2)]
        history.update(rewards, names, num_generations=2, step=step)


def written_and_read(state: dict[str, Any]) -> dict[str, Any]:
    """A state after its time in files."""
    settings_ = json.dumps({key: value for key, value in state.items() if key != "columns"}, allow_nan=False)
    return {**json.loads(settings_), "columns": load(save(state["columns"]))}


names = st.sampled_from(["", "a", "b", "é", "\ud83d", "👋", "a" * 300]) | st.text("xyz", max_size=2)
rewards = st.floats(-1e100, 1e100) | st.just(math.nan)
streams = st.lists(st.lists(st.tuples(names, rewards, rewards), min_size=1, max_size=5), max_size=4)


@each_kind
@settings(deadline=None, max_examples=60)
@given(batches=streams, far=st.sampled_from([0, 2**15, 2**31]))
def test_a_state_comes_back_from_files_bit_for_bit_and_goes_on_alike(kind, batches, far):
    history = RewardHistory(**kind)
    for step, batch in enumerate(batches):
        history.update(
            [reward for _, first, second in batch for reward in (first, second)],
            [name for name, _, _ in batch for _ in range(2)],
            num_generations=2,
            step=far * (step // 2) + step,
        )
    restored = RewardHistory.from_state_dict(written_and_read(history.state_dict()))
    assert contents(restored) == contents(history)
    assert restored.preference_groups == history.preference_groups
    assert restored.stats() == history.stats()
    for each in (restored, history):
        each.update([1.0, 2.0, 3.0], ["a", "new", "xy"], num_generations=1, step=9 + far)
    assert contents(restored) == contents(history)


@each_kind
def test_two_steps_and_two_resumed_steps_are_four_steps(kind):
    whole = RewardHistory(**kind)
    feed(whole, 0, range(1, 5))
    first = RewardHistory(**kind)
    feed(first, 0, range(1, 3))
    resumed = RewardHistory(**kind)
    feed(resumed, 7, range(1, 3))  # what is loaded replaces this
    resumed.load_state_dict(written_and_read(first.state_dict()))
    feed(resumed, 0, range(3, 5))
    assert contents(resumed) == contents(whole)


@each_kind
def test_a_history_saved_in_narrow_numbers_goes_on_as_it_would_have(kind):
    """Files of version 0.1, which kept whole numbers in 2, 4 or 8 bytes; steps 1 to 3, 40000 and 40001."""
    with safe_open(Path(__file__).parent / "histories" / f"{kind['kind']}.safetensors", "pt") as file:
        state = json.loads(file.metadata()["settings"])
        state["columns"] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert state["columns"]["n"].dtype == torch.int16
    old, new = RewardHistory.from_state_dict(state), RewardHistory(**kind)
    feed(new, 0, range(1, 4))
    feed(new, 0, range(40_000, 40_002))
    assert contents(old) == contents(new)


@each_kind
def test_a_restored_history_shares_nothing_with_the_saved_one(kind):
    history = RewardHistory(**kind)
    feed(history, 0, range(1, 3))
    state = history.state_dict()
    before = comparable(state)
    restored = RewardHistory.from_state_dict(state)
    feed(restored, 0, range(3, 5))
    assert contents(history) == before == comparable(state)
    kept = contents(restored)
    for column in state["columns"].values():
        column.fill_(77)
    assert contents(restored) == kept
    assert contents(history) == before


def test_an_empty_history_roundtrips():
    for kind in KINDS:
        assert RewardHistory.from_state_dict(RewardHistory(**kind).state_dict()).stats() == {}


def test_a_state_of_another_kind_is_refused_and_names_both():
    saved = RewardHistory("ema", decay=0.9).state_dict()
    with pytest.raises(CheckpointError, match=r"'ema'.*'cumulative'"):
        RewardHistory().load_state_dict(saved)
    with pytest.raises(CheckpointError, match=r"0\.9.*0\.5"):
        RewardHistory("ema", decay=0.5).load_state_dict(saved)


IDS, LENGTHS = "preference_group_ids", "preference_group_id_lengths"
DAMAGES = {
    "a column is missing": lambda s: s["columns"].pop("within"),
    "a column is short": lambda s: s["columns"].update(n=s["columns"]["n"][:-1]),
    "a column is a list": lambda s: s["columns"].update(n=s["columns"]["n"].tolist()),
    "a column has another type": lambda s: s["columns"].update(mean=s["columns"]["mean"].float()),
    "a count is no whole number": lambda s: s["columns"].update(n=s["columns"]["n"].double()),
    "a count is negative": lambda s: s["columns"]["n"].neg_(),
    "a NaN in a column": lambda s: s["columns"]["mean"][0].fill_(math.nan),
    "an infinity in a column": lambda s: s["columns"]["mean"][0].fill_(-math.inf),
    # "group 3", "group 2", ...: one byte makes the second id the first.
    "a group stands twice": lambda s: s["columns"][IDS][13].copy_(s["columns"][IDS][6]),
    "a group is no text": lambda s: s["columns"][IDS][3].fill_(0xFF),
    "an id is longer than the text": lambda s: s["columns"][LENGTHS][-1].add_(1),
    "an id is shorter than nothing": lambda s: s["columns"][LENGTHS][:2].copy_(torch.tensor([15, -1])),
    "an id is missing": lambda s: s["columns"].update({LENGTHS: s["columns"][LENGTHS][:-1]}),
    "no ids": lambda s: s["columns"].pop(IDS),
    "the ids are words": lambda s: s["columns"].update({IDS: ["group 1"]}),
    "no columns": lambda s: s.pop("columns"),
    "columns are a list": lambda s: s.update(columns=[1, 2]),
    "a later version": lambda s: s.update(version=99),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_state_is_refused_and_leaves_the_history_alone(damage):
    history = RewardHistory()
    feed(history, 0, range(1, 4))
    good = contents(history)
    bad = history.state_dict()
    damage(bad)
    with pytest.raises(CheckpointError):
        history.load_state_dict(bad)
    assert contents(history) == good
    history.load_state_dict(history.state_dict())
    assert contents(history) == good


@pytest.mark.parametrize("kind", KINDS[1:], ids=lambda kind: kind["kind"])
def test_every_column_of_a_kind_is_looked_at(kind):
    history = RewardHistory(**kind)
    feed(history, 0, range(1, 4))
    for name in history.state_dict()["columns"]:
        bad = history.state_dict()
        del bad["columns"][name]
        with pytest.raises(CheckpointError, match="damaged"):
            history.load_state_dict(bad)


def test_a_state_without_settings_is_damaged():
    with pytest.raises(CheckpointError, match="damaged"):
        RewardHistory.from_state_dict({"version": 1})


def test_a_window_is_saved_with_the_numbers_of_prompts_as_earlier_versions_stored_them():
    history = RewardHistory("window", window=4)
    history.update([1, 2, 3, math.nan], ["a"] * 4, num_generations=2, step=1)
    history.update([4, 5, 6, 7], ["a", "a", "b", "b"], num_generations=2, step=2)
    columns = history.state_dict()["columns"]
    # a: prompt 0 gives 1 2, prompt 1 gives 3, prompt 2 gives 4 5, whose 5 takes the slot of the 1.
    assert columns["rewards"].tolist() == [[5, 2, 3, 4], [6, 7, 0, 0]]
    assert columns["prompt_numbers"].tolist() == [[2, 0, 1, 2], [0, 0, 0, 0]]
    assert columns["prompt_numbers"].dtype == torch.int64
    assert sorted(columns.keys() - {IDS, LENGTHS}) == [
        "first_step", "last_step", "n", "prompt_numbers", "prompts", "rewards"
    ]  # fmt: skip
    # A prompt of six fills the window, which then is all of one prompt.
    history.update([0, 1, 2, 3, 4, 5], ["a"] * 6, num_generations=6, step=3)
    for each in (history, RewardHistory.from_state_dict(history.state_dict())):
        assert each.state_dict()["columns"]["prompt_numbers"].tolist() == [[3] * 4, [0] * 4]
        assert each.stats()["a"].between_variance == 0


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["kind"])
def test_a_chunk_at_a_time_is_the_same(kind, monkeypatch):
    whole = RewardHistory(**kind)
    feed(whole, 0, range(1, 9))
    expected, stats = contents(whole), whole.stats()
    monkeypatch.setattr(Window, "_CHUNK_ELEMENTS", 6)  # one row
    assert (contents(whole), whole.stats()) == (expected, stats)


def assert_close(found: RewardHistory, expected: RewardHistory) -> None:
    assert set(found.preference_groups) == set(expected.preference_groups)
    for group, stats in expected.stats().items():
        assert vars(found.stats()[group]) == pytest.approx(vars(stats), rel=1e-11, abs=1e-11), group


@each_kind
@settings(deadline=None, max_examples=40)
@given(cuts=st.sets(st.integers(1, 10), max_size=4), seed=st.integers(0, 50))
def test_merging_any_split_equals_one_stream(kind, cuts, seed):
    whole = RewardHistory(**kind)
    feed(whole, seed, range(1, 11))
    bounds = [1, *sorted(cuts), 11]
    merged = RewardHistory(**kind)
    for start, end in pairwise(bounds):
        part = RewardHistory(**kind)
        feed(part, seed, range(start, end))
        merged.merge(part)
    assert_close(merged, whole)


def test_a_cumulative_merge_does_not_depend_on_the_order():
    parts = []
    for seed in range(3):
        parts.append(RewardHistory())
        feed(parts[-1], seed, range(seed, seed + 3))
    forwards, backwards = RewardHistory(), RewardHistory()
    for part in parts:
        forwards.merge(part)
    for part in reversed(parts):
        backwards.merge(part)
    assert_close(forwards, backwards)
    assert contents(parts[1]) != contents(forwards)


def test_merging_far_from_zero_keeps_the_digits():
    generator = torch.Generator().manual_seed(3)
    rewards = 1e6 + 1e-2 * torch.randn(64_000, generator=generator, dtype=torch.float64)
    whole, merged = RewardHistory(), RewardHistory()
    whole.update(rewards, ["a"] * 64_000, num_generations=1, step=1)
    for shard in rewards.view(64, 1000):
        part = RewardHistory()
        part.update(shard, ["a"] * 1000, num_generations=1, step=1)
        merged.merge(part)
    assert merged.std("a") == pytest.approx(whole.std("a"), rel=1e-10)
    assert merged.mean("a") == pytest.approx(whole.mean("a"), rel=1e-15)


def test_a_merged_window_keeps_the_latest_of_both():
    first, second = RewardHistory("window", window=3), RewardHistory("window", window=3)
    first.update([1, 2, 3, 4], ["a"] * 4, num_generations=1, step=1)
    second.update([5, 6], ["a"] * 2, num_generations=1, step=2)
    first.merge(second)  # 4 5 6
    assert (first.mean("a"), first.count("a")) == (5, 6)
    third = RewardHistory("window", window=3)
    third.update([7, 8, 9, 10, 11], ["a"] * 5, num_generations=1, step=3)
    first.merge(third)  # 9 10 11
    assert (first.mean("a"), first.count("a")) == (10, 11)
    first.update([12], ["a"], num_generations=1, step=4)  # 10 11 12
    assert first.mean("a") == 11


def test_histories_of_different_kinds_do_not_merge():
    with pytest.raises(ValueError, match=r"'window'.*does not merge"):
        RewardHistory().merge(RewardHistory("window", window=3))
