"""The names of the estimators of advantages: the baseline and the scale of each.

The functions behind the names are in `advantages.py`. This module does not need torch, so that recipes can be
checked and runs diagnosed without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from pgrpo_cli.errors import RecipeError
from pgrpo_cli.names import nearest

Baseline = Literal["history", "prompt", "leave_one_out", "shrinkage"]
Scale = Literal["history", "within", "prompt", "batch", "none"]
Aggregation = Literal["sequence_mean", "token_mean", "constant"]
Preset = Literal["pgrpo", "grpo", "dr_grpo", "rloo", "pgrpo_centered", "pgrpo_shrinkage", "pgrpo_adaptive"]

PRESETS: dict[Preset, tuple[Baseline, Scale]] = {
    "pgrpo": ("history", "history"),
    "grpo": ("prompt", "prompt"),
    "dr_grpo": ("prompt", "none"),
    "rloo": ("leave_one_out", "none"),
    "pgrpo_centered": ("prompt", "history"),
    "pgrpo_shrinkage": ("shrinkage", "history"),
    "pgrpo_adaptive": ("shrinkage", "within"),
}
"""Named pairs of baseline and scale."""

LARGEST_REWARD = 1e150
"""A reward, and a sum of rewards, is at most of this size: the square of a larger one is infinite."""


@dataclass(frozen=True)
class Estimator:
    """The advantage is (reward - baseline) / (scale + epsilon). `epsilon` is in reward units."""

    baseline: Baseline
    scale: Scale
    epsilon: float = 1e-4

    def __post_init__(self) -> None:
        for kind, name, known in (("baseline", self.baseline, Baseline), ("scale", self.scale, Scale)):
            if name not in get_args(known):
                raise RecipeError(f"advantage.{kind} is {name!r}; known are {', '.join(get_args(known))}")
        if not self.epsilon >= 0:
            raise RecipeError(f"advantage.epsilon is {self.epsilon}; it is added to a spread, so 0 or more")

    @property
    def uses_history(self) -> bool:
        """Whether the estimator needs a reward history."""
        return not self.centered or self.scale in ("history", "within")

    @property
    def centered(self) -> bool:
        """Whether the advantages of a generation group sum to 0. If its rewards are equal, all are then 0."""
        return self.baseline in ("prompt", "leave_one_out")

    @property
    def aggregation(self) -> Aggregation:
        """The aggregation of the loss that suits the advantages: what `loss.aggregation: auto` stands for.

        A baseline from the history lags behind an improving policy, so the mean c of the advantages is above
        0. `sequence_mean` divides the loss of a completion by its length L, which adds c·∇E[1/L] to the
        gradient: a push towards short completions. Under `constant` this push is exactly 0. With a centered
        baseline the mean is 0 for every prompt, and the mean over tokens stays, as in GRPO.
        """
        return "sequence_mean" if self.centered else "constant"

    @property
    def scaled(self) -> bool:
        """Whether advantages are divided by a spread, which makes them independent of the rewards' scale."""
        return self.scale != "none"


def resolve_estimator(
    name: str, baseline: Baseline | None = None, scale: Scale | None = None, epsilon: float = 1e-4
) -> Estimator:
    """The estimator of a preset, or for `custom` one with the given baseline and scale. Raises RecipeError
    for any other combination.
    """
    if name == "custom":
        if baseline is None or scale is None:
            raise RecipeError(
                f"advantage.estimator is custom, with baseline {baseline} and scale {scale}",
                remedy="Set both advantage.baseline and advantage.scale.",
            )
        return Estimator(baseline, scale, epsilon)
    if name not in PRESETS:
        near = nearest(name, PRESETS)
        hint = f"Did you mean {near!r}? " if near else ""
        raise RecipeError(
            f"advantage.estimator is {name!r}, which is not an estimator",
            remedy=f"{hint}Known: {', '.join(PRESETS)}, custom.",
        )
    if baseline is not None or scale is not None:
        raise RecipeError(
            f"advantage.estimator {name!r} has its own baseline and scale",
            remedy="Leave advantage.baseline and advantage.scale out, or set advantage.estimator: custom.",
        )
    return Estimator(*PRESETS[name], epsilon)
