"""What batches hold: bytes on the meta device against real ones, and the largest batches by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.model.memory import work
from pgrpo_cli.model.memory.meta_policy import meta_policy
from pgrpo_cli.model.memory.work import (
    COPIES,
    LOGITS,
    Batch,
    Held,
    largest_batch,
    largest_micro_batch,
    rollout_memory,
    update_memory,
)
from pgrpo_cli.model.policy import Paths, Policy
from pgrpo_cli.model.rollout.sample import sample
from pgrpo_cli.model.rollout.sampling import SamplingSettings, sampling_settings
from pgrpo_cli.model.update import packed_attention, packing
from pgrpo_cli.model.update.packing import micro_batches, pack, whole_rows
from pgrpo_cli.model.update.policy_update import completion_logprobs
from pgrpo_cli.recipe.schema import Recipe
from tests.support.memory_plans import CPU, RealMeter, real_policy, recipe_for, write_model
from tests.support.policies import made_up_rollouts

BATCH = Batch(2, 40, 3, 12)
UPDATES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {},
    "gemma3_text": {},
    "phi3": {},
    "beta": {"loss__beta": 0.1},
    "checkpointing": {"train__gradient_checkpointing": True},
    "dropout": {"adapter__dropout": 0.1},
    "temperature": {"rollout__temperature": 0.7},
    "eager": {"model__attention": "eager"},
    "bfloat16": {"model__compute_dtype": "bfloat16"},
    "nf4": {"model__compute_dtype": "bfloat16", "model__quantization": {"type": "nf4"}},
    "two targets": {
        "model__compute_dtype": "bfloat16",
        "model__quantization": {"type": "nf4"},
        "adapter__target_modules": ["q_proj", "v_proj"],
    },
}


@pytest.fixture(autouse=True)
def kernel_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real policies here are on a CPU, whose own attention keeps less than the kernel that a GPU has."""
    monkeypatch.setattr(packing, "blocks_of", lambda segments: [])
    monkeypatch.setattr(packed_attention, "_causal_blocks", lambda rows, length: None)


def update_of(policy: Policy, recipe: Recipe, batch: Batch) -> Held:
    checkpointing = recipe.train.gradient_checkpointing
    return update_memory(policy, recipe.resolved_loss, recipe.rollout, batch, checkpointing=checkpointing)


@pytest.mark.parametrize("case", UPDATES)
def test_an_update_holds_what_the_meta_device_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    architecture = case if case in ("qwen3", "gemma3_text", "phi3") else "llama"
    write_model(tmp_path, architecture, vocab_size=1000, hidden_size=64, intermediate_size=96)
    recipe = recipe_for(tmp_path, **UPDATES[case])
    planned = update_of(meta_policy(recipe, Path()), recipe, BATCH).peak
    monkeypatch.setattr(work, "Meter", RealMeter)
    held = update_of(real_policy(recipe), recipe, BATCH).peak
    # The real one also holds the token ids and what is counted on the CPU in either case.
    assert planned.total() == pytest.approx(held.total(), rel=0.02)
    assert planned[LOGITS] == pytest.approx(held[LOGITS], rel=0.02)


def test_few_tokens_hold_little_beside_a_dequantized_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path, "llama", vocab_size=100, hidden_size=256, intermediate_size=1024)
    recipe = recipe_for(tmp_path, **UPDATES["nf4"])
    few = Batch(1, 4, 2, 2)
    planned = update_of(meta_policy(recipe, Path()), recipe, few).peak.total()
    monkeypatch.setattr(work, "Meter", RealMeter)
    held = update_of(real_policy(recipe), recipe, few).peak.total()
    assert planned == pytest.approx(held, rel=0.1)
    assert planned > 256 * 1024 * 2


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_what_a_forward_pass_keeps_is_what_autograd_saves(tmp_path: Path, architecture: str) -> None:
    """The same by torch's own account, without the meter: every storage that a node of the graph saves."""
    write_model(tmp_path, architecture, hidden_size=64, intermediate_size=96)
    recipe = recipe_for(tmp_path)
    sizes = []
    for policy in (meta_policy(recipe, Path()), real_policy(recipe)):
        rollouts = BATCH.rollouts()
        packed = pack(whole_rows(rollouts), rollouts, pad_token_id=0)
        policy.model.train()
        weights = {p.untyped_storage()._cdata for p in policy.model.parameters()}
        saved: dict[int, torch.UntypedStorage] = {}

        def keep(tensor: torch.Tensor, saved: dict[int, torch.UntypedStorage] = saved) -> torch.Tensor:
            saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), work.kernels_of_devices():
            completion_logprobs(policy, packed, temperature=1.0)
        sizes.append(sum(s.nbytes() for key, s in saved.items() if key not in weights))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)
    # Rows of 40 + 3 · 11 tokens, 64 features: far more than the few that the loss keeps.
    assert sizes[1] > 2 * 73 * 64 * 4 * 10


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"model__compute_dtype": "bfloat16"},
        {"model__compute_dtype": "bfloat16", "model__quantization": {"type": "nf4"}},
        {"rollout__top_p": 0.9, "rollout__temperature": 0.7},
    ],
    ids=["float32", "bfloat16", "nf4", "top_p"],
)
def test_a_rollout_holds_what_the_meta_device_says(tmp_path: Path, values: dict[str, Any]) -> None:
    write_model(tmp_path, "llama", vocab_size=1000, hidden_size=64, intermediate_size=96)
    recipe = recipe_for(tmp_path, rollout__num_generations=3, rollout__max_completion_tokens=12, **values)
    real = real_policy(recipe)
    settings = sampling_settings(recipe.rollout)
    on_meta = replace(meta_policy(recipe, Path()), device=CPU, paths=real.paths)
    planned = rollout_memory(on_meta, settings, BATCH).peak
    assert planned[COPIES] > 0 and planned["key-value cache"] > 0
    # No token ends a completion, so that all twelve are sampled and stored.
    real.model.generation_config.eos_token_id = None
    real.tokenizer.eos_token_id = 999
    weights = [*real.model.parameters(), *real.model.buffers()]
    with RealMeter(weights, lambda t: None, label="all") as meter, torch.no_grad():
        sample(real, BATCH.rollouts().prompts, settings, seed=0)
    # oneDNN's copies of weights have no storage that could be seen.
    assert planned.total() - planned[COPIES] == pytest.approx(meter.peak().total(), rel=0.1)


def test_a_gpu_keeps_its_buffers_and_no_copies_are_counted(tmp_path: Path) -> None:
    write_model(tmp_path, "llama")
    recipe = recipe_for(tmp_path)
    policy = replace(meta_policy(recipe, Path()), device=torch.device("cuda"), paths=Paths())
    held = rollout_memory(policy, SamplingSettings(3, 12), BATCH)
    # 2 layers of keys and values of 2 heads x 8 features: 2 prompts of 64 columns (40 rounded up) and
    # 6 rows of 12.
    cache = 2 * 2 * 2 * 8 * 4 * (2 * 64 + 6 * 12)
    assert held.peak["key-value cache"] == cache
    assert cache < held.kept < 1.2 * cache


def test_a_later_batch_of_a_gpu_holds_its_prompts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second batch on the meta device, a real one, and by hand: beside the buffers of the first."""
    write_model(tmp_path, "llama", num_hidden_layers=8)
    recipe = recipe_for(tmp_path)
    long = Batch(2, 300, 3, 12)
    on_gpu = {"device": torch.device("cuda"), "paths": Paths()}
    on_meta = rollout_memory(replace(meta_policy(recipe, Path()), **on_gpu), SamplingSettings(3, 12), long)
    monkeypatch.setattr(work, "Meter", RealMeter)
    monkeypatch.setattr(work, "META", CPU)
    real = rollout_memory(replace(real_policy(recipe), **on_gpu), SamplingSettings(3, 12), long)
    for held in (on_meta, real):
        # Keys and values of 2 heads x 8 features: 2 prompts of 320 columns and 6 rows of 12, in 8 layers.
        cache = 8 * 2 * 2 * 8 * 4 * (2 * 320 + 6 * 12)
        assert cache < held.kept < 1.1 * cache
        # Beside the buffers there are the keys and values of one layer, and not those of eight.
        layer = 2 * 2 * 8 * 4 * 2 * 300
        assert cache <= held.next_peak["key-value cache"] <= cache + layer
    assert on_meta.next_peak.total() == pytest.approx(real.next_peak.total(), rel=0.05)
    assert on_meta.next_peak.total() > on_meta.peak.total()


def test_a_model_without_keys_takes_the_plain_path(tmp_path: Path) -> None:
    write_model(tmp_path, "llama")
    policy = replace(meta_policy(recipe_for(tmp_path), Path()), device=torch.device("cuda"))
    settings = SamplingSettings(3, 12)
    shared = rollout_memory(policy, settings, BATCH)
    plain = rollout_memory(replace(policy, paths=Paths(False, False)), settings, BATCH)
    # 6 rows of 52 tokens each.
    assert plain.peak["key-value cache"] >= 2 * 2 * 2 * 8 * 4 * 6 * 52 > shared.peak["key-value cache"]


def test_the_largest_batch_by_hand() -> None:
    def batch(longest: int, tokens: int) -> tuple[Batch, bool]:
        recipe = recipe_for(
            None,
            train__prompts_per_step=4,
            rollout__num_generations=2,
            rollout__max_completion_tokens=10,
            rollout__tokens_per_batch=tokens,
        )
        return largest_batch(recipe.rollout, recipe.train.prompts_per_step, longest)

    # 30 + 2 · 10 = 50 tokens a prompt, four of them 200.
    assert batch(30, 1000) == (Batch(4, 30, 2, 10), False)
    # 120 tokens hold two and a bit: three of 40, whose prompts are 20 long.
    assert batch(30, 120) == (Batch(3, 20, 2, 10), True)
    # A prompt that exceeds the budget is a batch of its own.
    assert batch(30, 40) == (Batch(1, 30, 2, 10), True)
    # 40 tokens are two prompts of no tokens at all: one is left.
    assert batch(3, 40) == (Batch(1, 3, 2, 10), True)


def test_the_largest_micro_batch_by_hand() -> None:
    def micro_batch(longest: int, budget: int) -> tuple[Batch, bool]:
        recipe = recipe_for(
            None,
            train__prompts_per_step=4,
            train__tokens_per_micro_batch=budget,
            rollout__num_generations=2,
            rollout__max_completion_tokens=10,
        )
        return largest_micro_batch(recipe.rollout, recipe.train, longest)

    # Rows of 30 + 2 · 9 = 48 tokens, four of them 192.
    assert micro_batch(30, 1000) == (Batch(4, 30, 2, 10), False)
    # 120 tokens are three rows of 40, with prompts of 22.
    assert micro_batch(30, 120) == (Batch(3, 22, 2, 10), True)
    # 45 tokens hold one completion behind the prompt: rows of 39, or two that are shorter.
    assert micro_batch(30, 45) == (Batch(2, 13, 1, 10), True)
    # And 20 tokens not even one.
    assert micro_batch(30, 20) == (Batch(1, 30, 1, 10), True)


@given(st.lists(st.tuples(st.integers(1, 40), *[st.integers(1, 8)] * 3), min_size=1, max_size=5), st.data())
def test_no_micro_batch_has_more_tokens_or_longer_rows(lengths: list[tuple[int, ...]], data: Any) -> None:
    budget = data.draw(st.integers(1, 200))
    prompt_lengths = [prompt for prompt, *_ in lengths]
    recipe = recipe_for(
        None,
        train__prompts_per_step=len(lengths),
        train__tokens_per_micro_batch=budget,
        rollout__num_generations=3,
        rollout__max_completion_tokens=8,
    )
    planned, several = largest_micro_batch(recipe.rollout, recipe.train, max(prompt_lengths))
    rollouts = made_up_rollouts(prompt_lengths, [n for _, *completions in lengths for n in completions])
    groups = list(micro_batches(rollouts, budget))
    for rows in groups:
        tokens = len(rows) * max(row.length for row in rows)
        # Rows of whole tokens may leave as many tokens over as there are rows.
        assert tokens < planned.count * planned.row_tokens + planned.count
    assert several or len(groups) == 1
