"""Budgets that are left to the device: by hand on a made-up plan, and as a real plan has it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pgrpo_cli.model.memory.budgets import fitted, with_budgets
from pgrpo_cli.model.memory.plan import GIB, OVERHEADS, MemoryPlan, Phase
from pgrpo_cli.model.memory.planner import Planner, paths_with_budgets, room_on
from pgrpo_cli.model.memory.work import Batch
from pgrpo_cli.model.policy import Paths
from pgrpo_cli.model.rollout.workspace import fits_beside_updates
from pgrpo_cli.recipe.schema import Recipe
from tests.support.memory_plans import recipe_for, write_config
from tests.support.policies import HYBRID, make_prompts, tiny_policy

MIB = 1 << 20
AUTO = {"rollout__tokens_per_batch": "auto", "train__tokens_per_micro_batch": "auto"}
# A step: 8 prompts of up to 100 tokens with 4 completions of 26 each. 204 tokens a prompt are cached, and a
# row of training has 100 + 4 · 25 = 200.
STEP = {
    "train__prompts_per_step": 8,
    "rollout__num_generations": 4,
    "rollout__max_completion_tokens": 26,
    "data__max_prompt_tokens": 100,
}
BATCH = Batch(1, 1, 1, 1)


def made_up(recipe: Recipe) -> MemoryPlan:
    """1000 MiB of weights; a MiB a cached token, which is kept, and two a token of training."""
    rollout = 1000 + min(recipe.rollout.tokens_per_batch, 8 * 204)
    update = 1000 + 2 * min(recipe.train.tokens_per_micro_batch, 8 * 200)
    sizes = {"load": 1000, "rollout": rollout, "update": update}
    phases = tuple(Phase(name, Counter(all=size * MIB)) for name, size in sizes.items())  # type: ignore[arg-type]
    return MemoryPlan("cuda", Counter(), 0, BATCH, BATCH, phases, kept_buffers=(rollout - 1000) * MIB)


def budgets(room_mib: float, **values: Any) -> tuple[Any, Any]:
    recipe = recipe_for(None, **{**STEP, **AUTO, **values})
    found = fitted(recipe, "cuda", round(room_mib * MIB), 100, made_up)
    return found.rollout.tokens_per_batch, found.train.tokens_per_micro_batch


def room_for(tensors_mib: float) -> float:
    """MiB of a device that holds these tensors: 512 for the context, and a twentieth for gaps."""
    return 512 + 1.05 * tensors_mib


def test_a_step_in_one_batch_where_it_fits_else_in_as_few_equal_ones_as_do() -> None:
    # All 8 prompts take 1000 + 8 · 204 MiB.
    assert budgets(room_for(2632))[0] == 8 * 204
    # A MiB less, and it is two batches of 4; without room for 4, three of 3; for 3, four of 2; and so on.
    assert budgets(room_for(2631))[0] == 4 * 204
    assert budgets(room_for(1000 + 3 * 204))[0] == 3 * 204
    assert budgets(room_for(1000 + 3 * 204 - 1))[0] == 2 * 204
    assert budgets(room_for(1000 + 204))[0] == 204
    # Not even one prompt fits, and the run will say so, or decode fewer completions at a time.
    assert budgets(room_for(1100))[0] == 204


def test_micro_batches_leave_room_for_what_rollouts_keep() -> None:
    # On 80 GB everything: 8 rows.
    assert budgets(80_000)[1] == 8 * 200
    # Kept are 8 · 204. Of 6000 MiB 4800 may be used: 1632, 1000 of weights, and 2168 of training: 5 rows.
    assert budgets(6000) == (8 * 204, 5 * 200)
    # 2632 + 512 + gaps: no row fits beside what is kept, which is given back then; 1632 alone hold four.
    assert budgets(room_for(2632)) == (8 * 204, 4 * 200)


def test_where_not_even_a_row_fits_its_completions_are_cut() -> None:
    # 350 MiB of training hold 175 tokens: the prompt and three completions of 25.
    assert budgets(room_for(1350))[1] == 100 + 3 * 25
    assert budgets(room_for(1250))[1] == 100 + 25
    # Nor one: it is tried all the same, and the run ends with its remedy.
    assert budgets(room_for(1100))[1] == 100 + 25


def test_what_the_recipe_says_stays() -> None:
    assert budgets(80_000, rollout__tokens_per_batch=300) == (300, 8 * 200)
    assert budgets(80_000, train__tokens_per_micro_batch=300) == (8 * 204, 300)


def test_a_long_step_is_cut_where_more_tokens_gain_nothing() -> None:
    # Rows of 200: 81 of them have 16200 tokens, 82 more than 16384.
    assert budgets(10**9, train__prompts_per_step=1000) == (1000 * 204, 81 * 200)


def test_a_cpu_has_its_own() -> None:
    found = fitted(recipe_for(None, **STEP, **AUTO), "cpu", 0, 100, made_up)
    assert (found.rollout.tokens_per_batch, found.train.tokens_per_micro_batch) == (8192, 1024)


@pytest.fixture(scope="module")
def eight_billion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published shape of Qwen3-8B, with a sixth of its layers."""
    folder = tmp_path_factory.mktemp("eight")
    write_config(
        folder, "qwen3", vocab_size=151_936, hidden_size=4096, intermediate_size=12288, num_hidden_layers=6,
        num_attention_heads=32, num_key_value_heads=8, head_dim=128, max_position_embeddings=4096,
        tie_word_embeddings=False,
    )  # fmt: skip
    return folder


@pytest.mark.parametrize("gib", [8, 12, 16, 24])
def test_on_real_plans_budgets_fill_the_memory_that_is_left(
    eight_billion: Path, monkeypatch: pytest.MonkeyPatch, gib: int
) -> None:
    """An allocator of so many GiB, one of them taken: the plan fits, and the next larger one does not."""
    recipe = recipe_for(
        eight_billion, model__compute_dtype="bfloat16", model__quantization={"type": "nf4"}, **AUTO,
        train__prompts_per_step=16, rollout__num_generations=8, rollout__max_completion_tokens=128,
    )  # fmt: skip
    room = (gib - 1) * GIB
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (room - 3 * GIB, gib * GIB))
    # What this process has loaded by now, and its context.
    held = 3 * GIB - OVERHEADS["cuda"].fixed
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: held)
    policy = replace(tiny_policy(), device=torch.device("cuda"), paths=Paths())
    prompts = make_prompts((512, 300))
    paths = paths_with_budgets(policy, recipe, Path(), prompts)
    planner = Planner(Path(), longest_prompt=512, paths=Paths())

    def plan(per_batch: int, per_micro_batch: int) -> MemoryPlan:
        return planner.plan(with_budgets(recipe, per_batch, per_micro_batch), "cuda")

    batch, micro_batch = paths.tokens_per_batch, paths.tokens_per_micro_batch
    assert batch is not None and micro_batch is not None
    chosen = plan(batch, micro_batch)
    assert chosen.peak <= room
    prompt, row = 512 + 8 * 128, 512 + 8 * 127
    if batch < 16 * prompt:
        # One batch fewer.
        count = -(-16 * prompt // batch) - 1
        assert plan(-(-16 // count) * prompt, 1).peak > room
    if micro_batch < 10 * row:
        larger = plan(batch, micro_batch + row)
        assert larger.peak > room or not fits_beside_updates(larger.kept_buffers, larger.tensors, room)


@pytest.mark.parametrize(("free", "reserved", "room"), [(5, 2, 7.5), (12, 0, 12), (11, 1, 12)])
def test_room_is_what_other_programs_leave_of_the_device(
    monkeypatch: pytest.MonkeyPatch, free: int, reserved: int, room: float
) -> None:
    """What is free, what this process has allocated, and its context of half a GiB; of 12 GiB at most all."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free * GIB, 12 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved * GIB)
    assert room_on(torch.device("cuda")) == room * GIB


def test_a_model_that_cannot_be_planned_gets_the_usual_budgets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(tmp_path, "qwen3_next", **HYBRID)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 * GIB, 8 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    policy = replace(tiny_policy(), device=torch.device("cuda"), paths=Paths())
    paths = paths_with_budgets(policy, recipe_for(tmp_path, **AUTO), Path(), make_prompts((5,)))
    assert (paths.tokens_per_batch, paths.tokens_per_micro_batch) == (16384, 4096)
