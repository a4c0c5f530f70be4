"""What `pgrpo export` writes: its formats, the types of numbers that each may have, and how near it must be.

No torch: the command line reads it for `--help`.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from pgrpo_cli.errors import ExportError
from pgrpo_cli.recipe.schema import Recipe

Format = Literal["adapter", "merged", "gguf", "gguf-lora", "ollama"]
FORMATS: tuple[Format, ...] = get_args(Format)
MERGED: tuple[Format, ...] = ("merged", "gguf", "ollama")
"""Those in which the adapter is merged into the base model."""

MergeInto = Literal["trained", "original"]
MERGE_INTO: tuple[MergeInto, ...] = get_args(MergeInto)

_PLAIN = ("f32", "bf16", "f16")
_GGUF = ("q8_0", "f16", "bf16", "f32", "q5_1", "q5_0", "q4_1", "q4_0")
QUANTIZATIONS: dict[Format, tuple[str, ...]] = {
    "adapter": (),
    "merged": _PLAIN,
    "gguf": _GGUF,
    "gguf-lora": _PLAIN,
    "ollama": _GGUF,
}
"""The types of numbers that the weights of a format may have. The `gguf` package quantizes to no others."""

_DEFAULT: dict[Format, str] = {"gguf": "q8_0", "gguf-lora": "f32", "ollama": "q8_0"}

BOUNDS = {"f32": 0.03, "f16": 0.03, "q5_1": 0.4, "q5_0": 0.4, "q4_1": 0.7, "q4_0": 0.7}
"""Nats by which log-probabilities may differ on average from those of the same weights in float32, where they
are rounded as much as this; `BOUND` for all other types. docs/export.md says what was measured.
"""
BOUND = 0.15


def quantization_of(to: Format, wanted: str | None) -> str | None:
    """The type of the weights: the one that is wanted, else the format's default (None: the base model's).

    Raises ExportError for one that the format does not have.
    """
    if wanted is None:
        return _DEFAULT.get(to)
    choices = QUANTIZATIONS[to]
    if wanted not in choices:
        rule = f"must be one of {', '.join(choices)}" if choices else "an adapter is saved as it was trained"
        raise ExportError(
            f"--quantization: found {wanted!r}; with --to {to} {rule}",
            remedy="Choose one of these."
            if choices
            else "Leave --quantization out, or choose another format.",
            exit_code=2,
        )
    return wanted


def merge_into_of(to: Format, wanted: MergeInto | None) -> MergeInto | None:
    """The weights that the adapter is merged into (None: it is not merged). Raises ExportError."""
    if wanted is None:
        return "trained" if to in MERGED else None
    if wanted not in MERGE_INTO:
        rule, remedy = f"must be one of {', '.join(MERGE_INTO)}", "Choose one."
    elif to not in MERGED:
        rule, remedy = f"with --to {to} nothing is merged", "Leave --merge-into out, or take --to merged."
    else:
        return wanted
    raise ExportError(f"--merge-into: found {wanted!r}; {rule}", remedy=remedy, exit_code=2)


def sampling_of(recipe: Recipe) -> dict[str, Any]:
    """How an exported model samples unless it is asked otherwise: as `pgrpo chat` does."""
    return {
        "temperature": recipe.eval.conversation_temperature,
        "top_p": float(recipe.rollout.top_p),
        "top_k": int(recipe.rollout.top_k),
    }


def bound(quantization: str | None) -> float:
    """The largest mean difference of log-probabilities, in nats, that passes."""
    return BOUNDS.get(quantization or "", BOUND)
