"""Which layers get an adapter: linear layers of the language model, without its output layer.

PEFT's `all-linear` is all of a model's linear layers. They include the vision tower of a model for text and
pictures, which no prompt reaches here; routers to experts whose class is that of a linear layer but whose
result is not (Llama 4, PhiMoE); and layers of Mamba that PEFT itself refuses. Only for such models the layers
are named one by one, so that all others have the adapter that PEFT makes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from pgrpo_cli.errors import ModelError
from pgrpo_cli.names import nearest

_MAMBA = ("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h")
_NOT_IN_MAMBA = "out_proj"
"""The layer that PEFT refuses in models of these types: their kernels read its weight."""


def targets_of(base: Any, asked: str | Sequence[str]) -> str | list[str]:
    """What PEFT is told to adapt: what the recipe asks for, or the names of these layers one by one where
    PEFT would adapt others too. Raises ModelError for entries that match no layer that can be trained.
    """
    trained = _trained_layers(base)
    if isinstance(asked, str):
        output = base.get_output_embeddings()
        of_peft = {n for n, m in base.named_modules() if _looks_linear(m) and m is not output}
        return asked if of_peft <= set(trained) else trained
    _refuse_targets(base, asked, trained)
    names = [name for name, _ in base.named_modules()]
    matching = {name for target in asked for name in _matching(target, names)}
    return list(asked) if matching <= set(trained) else [name for name in trained if name in matching]


def _trained_layers(base: Any) -> list[str]:
    inside = {id(module) for module in base.get_decoder().modules()} - {id(base.get_output_embeddings())}
    refused = _NOT_IN_MAMBA if base.config.model_type in _MAMBA else None
    return [
        name
        for name, module in base.named_modules()
        if id(module) in inside
        and _looks_linear(module)
        and name.rpartition(".")[2] != refused
        and _is_linear(module)
    ]


def _looks_linear(module: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, (nn.Linear, Conv1D))


def _is_linear(module: Any) -> bool:
    """Whether the result is one tensor with `out_features` columns; classes of models are tried out."""
    if not isinstance(module, nn.Linear) or not type(module).__module__.startswith("transformers.models."):
        return True
    x = module.weight.new_zeros(1, module.in_features)
    try:
        with torch.no_grad():
            y = module(x)
    except (RuntimeError, TypeError, ValueError):
        return False
    return isinstance(y, torch.Tensor) and y.shape == (1, module.out_features)


def _refuse_targets(base: Any, targets: Sequence[str], linear: Sequence[str]) -> None:
    """Raise ModelError for entries that match none of the layers `linear`."""
    frozen = {
        id(base.get_output_embeddings()): "the output layer",
        id(base.get_input_embeddings()): "the embedding",
    }
    kept = {name: frozen[id(module)] for name, module in base.named_modules() if id(module) in frozen}
    leaves = sorted({name.rpartition(".")[2] for name in linear})
    problems = []
    for target in targets:
        if _matching(target, linear):
            continue
        near = nearest(target, leaves)
        if of := _matching(target, kept):
            problems.append(f"{target!r} is {kept[of[0]]}, which is never trained")
        else:
            hint = f"; did you mean {near!r}?" if near else ""
            problems.append(f"no linear layer that is trained is named {target!r}{hint}")
    if problems:
        raise ModelError(
            f"adapter.target_modules: {'; '.join(problems)}",
            remedy=f"There are: {', '.join(leaves)}. Or write all-linear, for all of them.",
        )


def _matching(target: str, names: Iterable[str]) -> list[str]:
    """The names that an entry of `target_modules` matches by PEFT's rule."""
    return [name for name in names if name == target or name.endswith(f".{target}")]
