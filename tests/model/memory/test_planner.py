"""Plans as a whole: phases that add up, cards, what is kept for speed, and remedies that take less."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from transformers import T5Config

from pgrpo_cli.errors import ModelError
from pgrpo_cli.model.memory.plan import CARDS_GIB, GIB, OVERHEADS, MemoryPlan, Phase
from pgrpo_cli.model.memory.planner import Planner
from pgrpo_cli.model.memory.remedies import remedies
from pgrpo_cli.model.memory.work import Batch
from pgrpo_cli.recipe.check import check
from pgrpo_cli.recipe.overrides import apply_overrides
from pgrpo_cli.recipe.resolved import dump_resolved
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.recipe.yaml_lines import parse
from tests.support.memory_plans import recipe_for, write_config
from tests.support.policies import HYBRID

# The published shape of a model of 8 billion parameters, fewer layers.
WIDE: dict[str, Any] = {
    "vocab_size": 151_936,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 2,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    write_config(tmp_path, "qwen3", **WIDE)
    return tmp_path


def phases(plan: MemoryPlan) -> dict[str, Phase]:
    return {phase.name: phase for phase in plan.phases}


def test_a_plan_needs_no_weights_and_adds_up(wide: Path) -> None:
    recipe = recipe_for(wide, model__compute_dtype="bfloat16", model__quantization={"type": "nf4"})
    plan = Planner(wide).plan(recipe, "cuda")
    load, rollout, update = phases(plan).values()
    layer = 4096 * (32 * 128 + 2 * 8 * 128) + 32 * 128 * 4096 + 3 * 4096 * 12288
    norms = 2 * (2 * 4096 + 2 * 128) + 4096
    assert plan.parameters.total() == 2 * 151_936 * 4096 + 2 * layer + norms
    # Half a byte a weight, and a hundredth for the constants.
    quantized = load.parts["attention"] + load.parts["MLP"]
    assert 0.5 < quantized / (2 * layer) < 0.52
    assert load.parts["output layer"] == 151_936 * 4096 * 2
    # r = 4 on all seven products of a layer, in float32.
    adapter = 2 * 4 * ((4096 + 4096) * 2 + (4096 + 1024) * 2 + (4096 + 12288) * 3)
    assert plan.adapter_parameters == adapter
    for phase in (rollout, update):
        assert phase.parts["adapter"] == 4 * adapter
        assert phase.parts["optimizer state"] == 8 * adapter
    assert plan.tensors == max(phase.total for phase in plan.phases)
    overhead = OVERHEADS["cuda"]
    assert plan.peak == overhead.fixed + round((1 + overhead.share) * plan.tensors)


def test_what_a_setting_is_for(wide: Path) -> None:
    """Each setting takes memory from where it is meant to."""
    planner = Planner(wide)

    def update(**values: Any) -> Counter[str]:
        plan = planner.plan(recipe_for(wide, model__compute_dtype="bfloat16", **values), "cuda")
        return phases(plan)["update"].parts

    usual = update()
    assert update(train__gradient_checkpointing=True)["activations"] < 0.75 * usual["activations"]
    half = update(train__tokens_per_micro_batch=2048)
    assert half["activations"] == pytest.approx(usual["activations"] / 2, rel=0.1)
    eight_bit = update(train__optimizer={"type": "adamw_8bit"})
    assert eight_bit["optimizer state"] == pytest.approx(usual["optimizer state"] / 4, rel=0.02)
    assert update(adapter__r=8)["adapter"] == 2 * usual["adapter"]
    assert update(model__quantization={"type": "nf4"})["MLP"] == pytest.approx(usual["MLP"] / 4, rel=0.05)
    few = Planner(wide, longest_prompt=20).plan(recipe_for(wide, model__compute_dtype="bfloat16"), "cuda")
    assert few.batch == Batch(8, 20, 8, 64)


def test_a_cpu_multiplies_by_copies_and_loads_in_one_memory(wide: Path) -> None:
    recipe = recipe_for(wide, model__compute_dtype="bfloat16", model__quantization={"type": "nf4"})
    gpu, cpu = (Planner(wide).plan(recipe, device) for device in ("cuda", "cpu"))
    assert phases(cpu)["rollout"].parts["rollout's copies of weights"] > gpu.kept_weights > 0
    assert cpu.kept_weights == 0
    assert phases(cpu)["load"].parts["loading"] > phases(gpu)["load"].parts["loading"]
    assert phases(cpu)["update"].total == pytest.approx(phases(gpu)["update"].total, rel=0.05)


def test_a_gpu_has_more_logits_at_a_time(tmp_path: Path) -> None:
    write_config(tmp_path, "qwen3", vocab_size=151_936)
    recipe = recipe_for(tmp_path, model__compute_dtype="bfloat16")
    gpu, cpu = (phases(Planner(tmp_path).plan(recipe, device))["update"].parts for device in ("cuda", "cpu"))
    # A chunk's logits in float32 and once more in bfloat16; 512 rows of them and 128.
    row = 151_936 * (4 + 2)
    assert (gpu["logits"], cpu["logits"]) == (512 * row, 128 * row)
    # And a chunk's [rows, 4096]; nothing else depends on it.
    assert {part for part in gpu if gpu[part] != cpu[part]} == {"logits", "activations"}


def test_one_planner_tells_devices_apart(wide: Path) -> None:
    planner, recipe = Planner(wide), recipe_for(wide, model__compute_dtype="bfloat16")
    for device in ("cuda", "cpu", "cuda"):
        plan = planner.plan(recipe, device)  # type: ignore[arg-type]
        assert plan.phases == Planner(wide).plan(recipe, plan.device).phases


def test_a_step_of_several_batches_holds_the_buffers_of_the_one_before(wide: Path) -> None:
    """The same largest batch in both; one has a second one, whose prefill finds the buffers of the first."""
    planner = Planner(wide)
    batches_of_four = {"model__compute_dtype": "bfloat16", "rollout__tokens_per_batch": 4 * (1024 + 8 * 64)}
    one, two = (
        planner.plan(recipe_for(wide, **batches_of_four, train__prompts_per_step=prompts), "cuda")
        for prompts in (4, 8)
    )
    assert one.batch == two.batch == Batch(4, 1024, 8, 64)
    later, first = phases(two)["rollout"].total, phases(one)["rollout"].total
    assert later == two.rollout_beside_kept == one.rollout_beside_kept > first
    # On a large GPU the buffers are there from the step before.
    assert one.tensors_on(80 * GIB) >= later


def test_what_a_gpu_keeps_for_speed_depends_on_its_size() -> None:
    def phase(name: Any, gib: float) -> Phase:
        return Phase(name, Counter({"activations": round(gib * GIB)}))

    plan = MemoryPlan(
        "cuda", Counter(), 0, Batch(8, 100, 8, 10), Batch(1, 100, 8, 10),
        (phase("load", 3), phase("rollout", 4), phase("update", 6)),
        kept_weights=8 * GIB, kept_buffers=GIB, rollout_beside_kept=round(4.5 * GIB), copy_from_rows=5,
    )  # fmt: skip
    assert plan.tensors == 6 * GIB
    assert [gib for gib in CARDS_GIB if plan.fits(gib)] == [8, 12, 16, 24, 80]
    assert plan.smallest_card == 8
    # A quarter of 8 GiB stays free, which leaves no room for 8 GiB of weights; nor do buffers fit beside 6.
    assert plan.tensors_on(8 * GIB) == 6 * GIB
    # 16 less a quarter hold the weights in a rollout, 4 + 8, but not beside an update: 9 + 12 > 16 · 4/5.
    assert plan.tensors_on(16 * GIB) == 12 * GIB
    # On 80 they stay: 6 + 9.
    assert plan.tensors_on(80 * GIB) == 15 * GIB
    assert plan.peak_on(80 * GIB) > plan.peak


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_every_remedy_takes_less_and_all_together_least(wide: Path, device: Any) -> None:
    planner = Planner(wide)
    recipe = recipe_for(wide)
    plan = planner.plan(recipe, device)
    found = remedies(planner, recipe, plan, 0)
    changes = [change for remedy in found[:-1] for change in remedy.changes]
    # On a CPU the copies of these wide layers outweigh the activations of so few.
    expected = {"cuda": "train.tokens_per_micro_batch=1024", "cpu": "rollout.tokens_per_batch=4096"}
    assert expected[device] in changes
    assert all(remedy.plan.peak < plan.peak for remedy in found)
    assert found[-1].changes == tuple(changes)
    assert found[-1].plan.peak < min(remedy.plan.peak for remedy in found[:-1])
    # They are what `--set` takes: the recipe with all of them has the plan that was promised.
    document = parse(dump_resolved(recipe), "recipe", str)
    apply_overrides(document, changes, Recipe)
    again = Planner(wide).plan(check(document), device)
    assert (again.tensors, again.peak) == (found[-1].plan.tensors, found[-1].plan.peak)


def test_what_is_used_already_is_no_remedy(wide: Path) -> None:
    planner = Planner(wide)
    recipe = recipe_for(
        wide,
        model__compute_dtype="bfloat16",
        model__quantization={"type": "nf4"},
        train__gradient_checkpointing=True,
        train__optimizer={"type": "adamw_8bit"},
        train__tokens_per_micro_batch=64,
        rollout__tokens_per_batch=64,
        data__max_prompt_tokens=8,
    )
    assert remedies(planner, recipe, planner.plan(recipe, "cuda"), 0) == []


def test_a_recurrent_hybrid_cannot_be_planned_and_is_told_what_to_do(tmp_path: Path) -> None:
    write_config(tmp_path, "qwen3_next", **HYBRID)
    with pytest.raises(ModelError, match="cannot be planned") as caught:
        Planner(tmp_path, longest_prompt=20).plan(recipe_for(tmp_path), "cuda")
    assert "Train a step" in str(caught.value.remedy)
    assert "its code does not run on shapes alone (IndexError: list index out of range)" in str(caught.value)


def test_a_model_that_is_no_language_model(tmp_path: Path) -> None:
    T5Config(num_layers=1).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"cannot be planned.*ValueError: .*T5Config"):
        Planner(tmp_path).plan(recipe_for(tmp_path), "cuda")


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        Planner(tmp_path).plan(recipe_for(tmp_path), "cuda")


def test_modules_that_the_model_lacks(tmp_path: Path) -> None:
    write_config(tmp_path, "llama")
    with pytest.raises(ModelError, match=r"adapter\.target_modules"):
        Planner(tmp_path).plan(recipe_for(tmp_path, adapter__target_modules=["nope"]), "cuda")
