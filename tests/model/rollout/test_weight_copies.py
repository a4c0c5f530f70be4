"""Dequantized copies: made where they pay, given back at any moment, and timed against packed weights."""

import gc
import weakref
from pathlib import Path

import pytest
import torch

from pgrpo_cli.model.load.from_recipe import load_policy
from pgrpo_cli.model.nf4 import dequantize
from pgrpo_cli.model.policy import Paths
from pgrpo_cli.model.rollout import weight_copies
from pgrpo_cli.model.rollout.weight_copies import copy_pays, dequantized, rows_from_which_copies_are_faster
from pgrpo_cli.model.rollout.workspace import Workspace
from pgrpo_cli.recipe.schema import Recipe
from tests.support.policies import make_prompts, randomize_adapter, tiny_policy
from tests.support.recipes import MINIMAL

GB = 10**9


@pytest.fixture
def policy():
    """Two NF4 layers of each of a Llama's seven kinds."""
    model = {"id": "random", "compute_dtype": "bfloat16", "random": {"hidden_size": 128, "num_layers": 2}}
    recipe = Recipe.model_validate({**MINIMAL, "model": model})
    loaded = load_policy(recipe, recipe_dir=Path("."), device=torch.device("cpu"), paths=Paths())
    randomize_adapter(loaded, scale=0.05)
    loaded.model.eval()
    return loaded


@pytest.fixture
def roomy(monkeypatch):
    monkeypatch.setattr(weight_copies, "_memory", lambda device: (GB, GB))


def _copies(policy, kept, num_rows=64):
    return dequantized(policy.model, num_rows=num_rows, from_rows=5, kept=kept)


def test_a_copy_is_made_for_many_rows_where_a_quarter_of_the_device_stays_free():
    # An 8B model takes 16 GB in bfloat16: it fits beside itself on 80 GB, not on 24 GB.
    assert copy_pays(64, 5, 16 * GB, free_bytes=70 * GB, total_bytes=80 * GB)
    assert not copy_pays(64, 5, 16 * GB, free_bytes=18 * GB, total_bytes=24 * GB)
    # 8 GB: 6.5 GB are free, 2 GB must stay so.
    assert copy_pays(5, 5, int(4.5 * GB), free_bytes=int(6.5 * GB), total_bytes=8 * GB)
    assert not copy_pays(5, 5, int(4.5 * GB) + 1, free_bytes=int(6.5 * GB), total_bytes=8 * GB)
    # Not for fewer rows than are faster by it, and not at all where none are.
    assert not copy_pays(4, 5, 1 * GB, free_bytes=70 * GB, total_bytes=80 * GB)
    assert not copy_pays(1000, None, 1 * GB, free_bytes=70 * GB, total_bytes=80 * GB)


def test_copies_that_are_kept_are_not_made_again(policy, roomy):
    kept = {}
    with _copies(policy, kept):
        assert len(kept) == 14
    before = dict(kept)
    with _copies(policy, kept):
        assert all(kept[i] is before[i] for i in before)
    with _copies(policy, none := {}, num_rows=4):
        assert none == {}


def test_without_memory_for_copies_rollouts_go_on_from_the_packed_weights(policy, roomy, monkeypatch):
    # Memory for three of fourteen copies.
    ids, room, kept = torch.tensor([make_prompts((9,))[0].input_ids]), iter(range(3)), {}

    def short_of_memory(layer):
        if next(room, None) is None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return dequantize(layer)

    monkeypatch.setattr(weight_copies, "dequantize", short_of_memory)
    with torch.no_grad(), policy.base():
        expected = policy.model(input_ids=ids).logits
        with _copies(policy, kept):
            assert kept == {} and next(room, None) is None
            assert torch.equal(policy.model(input_ids=ids).logits, expected)


def test_copies_given_back_in_the_middle_of_a_rollout_are_gone_and_it_goes_on(policy, roomy):
    ids, workspace = torch.tensor([make_prompts((9,))[0].input_ids]), Workspace()
    with torch.no_grad(), policy.base():
        packed = policy.model(input_ids=ids).logits
        with _copies(policy, workspace.weights):
            copies = [weakref.ref(copy) for copy in workspace.weights.values()]
            assert len(copies) == 14
            by_copies = policy.model(input_ids=ids).logits
            assert workspace.release()
            gc.collect()
            assert [copy() for copy in copies] == [None] * 14
            # Another product of bitsandbytes' than the copy's, on this device: equal to a rounding.
            assert torch.equal(policy.model(input_ids=ids).logits, packed)
    torch.testing.assert_close(by_copies, packed, atol=0.1, rtol=0)


class Timer:
    """Takes both products of fourteen layers, and says what the table says of their number of rows."""

    def __init__(self, faster_from, monkeypatch):
        self.rows, self.results, self._faster_from = [], [], faster_from

    def __call__(self, call):
        outputs = call()
        assert len(outputs) == 14
        self.results.append(outputs)
        self.rows.append(outputs[0].shape[0])
        # Of each pair of calls the copies come first.
        copies = len(self.rows) % 2 == 1
        return float(copies != (self._faster_from is not None and self.rows[-1] >= self._faster_from))


@pytest.mark.parametrize(("faster_from", "expected"), [(2, 2), (5, 8), (64, 64), (256, 256), (None, None)])
def test_the_number_of_rows_from_which_copies_are_faster(policy, monkeypatch, faster_from, expected):
    timer = Timer(faster_from, monkeypatch)
    assert rows_from_which_copies_are_faster(policy.model, timer) == expected
    # From many rows downwards, until copies are no longer faster; both ways compute the same.
    tried = [n for n in (256, 128, 64, 32, 16, 8, 4, 2) if n >= (expected or 512) / 2]
    assert timer.rows == [n for n in tried for _ in range(2)]
    for copied, packed in zip(timer.results[::2], timer.results[1::2], strict=True):
        torch.testing.assert_close(copied, packed, atol=0.05, rtol=0.02)


def test_where_nothing_can_be_timed_no_copy_is_made(policy):
    def no_room(call):
        raise torch.OutOfMemoryError("CUDA out of memory")

    def broken(call):
        raise RuntimeError("no kernel image is available")

    assert rows_from_which_copies_are_faster(policy.model, no_room) is None
    assert rows_from_which_copies_are_faster(tiny_policy().model, broken) is None
    with pytest.raises(RuntimeError, match="no kernel image"):
        rows_from_which_copies_are_faster(policy.model, broken)


def test_a_sample_of_the_layers_is_larger_than_a_cache(policy, monkeypatch):
    # Of a layer of 128 features: q, k, v and o take 32, 16, 16 and 32 KiB, then the MLP's 64 each.
    monkeypatch.setattr(weight_copies, "_SAMPLE_BYTES", (32 + 16 + 16 + 32) << 10)
    taken = []
    rows_from_which_copies_are_faster(policy.model, lambda call: taken.append(len(call())) or 0.0)
    assert taken == [4, 4]
