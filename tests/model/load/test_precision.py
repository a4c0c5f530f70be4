"""What a GPU cannot compute is refused before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pgrpo_cli.errors import ModelError
from pgrpo_cli.model.load import from_recipe as load
from pgrpo_cli.model.load import precision
from pgrpo_cli.model.load.precision import check_device, compute_dtype, device_for
from pgrpo_cli.recipe.schema import Recipe
from tests.support.gpus import fake_gpus
from tests.support.recipes import MINIMAL

CARD = torch.device("cuda", 0)
FULL = {"quantization": {"type": "none"}, "compute_dtype": "float32"}


def recipe_of(optimizer: str = "adamw", **model: Any) -> Recipe:
    train = {"optimizer": {"type": optimizer}}
    return Recipe.model_validate({**MINIMAL, "model": {"id": "random", **FULL, **model}, "train": train})


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((7, 0), ("sm_75", "sm_80"), False),
        ((8, 0), ("sm_75", "sm_80"), True),
        ((8, 6), ("sm_75", "sm_80"), True),  # Machine code runs on later ones of the same major number.
        ((9, 0), ("sm_75", "sm_80"), False),
        ((9, 0), ("sm_75", "compute_80"), True),  # The intermediate code is compiled by the driver.
        ((12, 0), ("sm_90", "sm_120"), True),
        ((10, 0), ("sm_90", "sm_120"), False),
        ((9, 0), ("sm_90a",), True),
        ((12, 1), ("sm_120a",), False),  # A letter binds it to the very same one.
        ((7, 0), (), True),  # Nothing known.
    ],
)
def test_the_gpus_that_torch_has_code_for(
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    architectures: tuple[str, ...],
    runs: bool,
) -> None:
    fake_gpus(monkeypatch, capability, architectures=architectures)
    if runs:
        check_device(recipe_of(), CARD)
        return
    with pytest.raises(ModelError, match=f"has no code for it, only for {architectures[0]}"):
        check_device(recipe_of(), CARD)


def test_bitsandbytes_needs_6_0(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpus(monkeypatch, (5, 2), architectures=("sm_50",))
    check_device(recipe_of(), CARD)
    for recipe, key in (
        (recipe_of(quantization={"type": "nf4"}), r"model\.quantization"),
        (recipe_of("adamw_8bit"), r"train\.optimizer"),
    ):
        with pytest.raises(ModelError, match=rf"Card 0, compute capability 5\.2\): {key} .*6\.0"):
            check_device(recipe, CARD)
    fake_gpus(monkeypatch, (6, 0), architectures=("sm_60",))
    check_device(recipe_of("adamw_8bit", quantization={"type": "nf4"}), CARD)


def test_bfloat16_is_refused_where_it_is_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpus(monkeypatch, (7, 5), (8, 0))
    bfloat16 = recipe_of(compute_dtype="bfloat16")
    with pytest.raises(ModelError, match="compute_dtype is bfloat16") as refusal:
        check_device(bfloat16, CARD)
    assert "float16 or float32" in str(refusal.value.remedy)
    check_device(bfloat16, torch.device("cuda", 1))
    check_device(bfloat16, torch.device("cpu"))
    check_device(recipe_of(compute_dtype="float16"), CARD)


def test_it_is_refused_before_a_weight_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpus(monkeypatch, (7, 5))
    monkeypatch.setattr(load, "load_base_model", None)
    with pytest.raises(ModelError, match="compute_dtype is bfloat16"):
        load.load_policy(recipe_of(compute_dtype="bfloat16"), recipe_dir=Path())


def test_the_option_wins_over_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpus(monkeypatch, (8, 0), (8, 0))
    assert device_for(recipe_of(device="cuda:1")) == torch.device("cuda", 1)
    assert device_for(recipe_of(device="cuda:1"), "cpu") == torch.device("cpu")


def test_auto_is_float16_where_bfloat16_is_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpus(monkeypatch, (7, 5), (8, 0))
    section = Recipe.model_validate(MINIMAL).model
    assert section.compute_dtype == "auto"
    found = [compute_dtype(section, torch.device(name)) for name in ("cuda:0", "cuda:1", "cpu", "meta")]
    assert found == [torch.float16, torch.bfloat16, torch.bfloat16, torch.bfloat16]
    check_device(Recipe.model_validate(MINIMAL), CARD)
    for name in ("bfloat16", "float16", "float32"):
        section = recipe_of(compute_dtype=name).model
        assert compute_dtype(section, CARD) == getattr(torch, name)


def test_a_model_is_loaded_in_what_auto_is(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(compute_dtype="auto")
    assert load.load_policy(recipe, recipe_dir=Path(), device=torch.device("cpu")).dtype == torch.bfloat16
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: False)
    assert load.load_policy(recipe, recipe_dir=Path(), device=torch.device("cpu")).dtype == torch.float16
