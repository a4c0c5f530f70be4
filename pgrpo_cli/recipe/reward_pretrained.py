"""`rewards` with a pretrained model of their own: what they have in common, and `type: reward_model`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from .base import Section
from .messages import KeyPath
from .model import ModelName, NoQuantization, Quantization
from .reward_base import RewardBase
from .violation import Violation


class PretrainedFields(Section):
    """Which model, and how much of it at once. It loads from safetensors, without remote code."""

    model: ModelName = Field(
        description="A hub id, or a local directory; a relative path starts at the recipe's folder.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a hub id.")
    quantization: Quantization = Field(
        NoQuantization(), description="How this model's weights are stored on the GPU or CPU."
    )
    max_tokens: int = Field(
        1024, ge=8, description="Longest input, in tokens; the beginning of a longer one is cut off."
    )
    batch_size: int = Field(
        16, ge=1, description="Inputs computed together; halved until they fit into the GPU's memory."
    )


class RewardModelReward(PretrainedFields, RewardBase):
    """An output of a sequence classification model on prompt and completion.

    A model with a chat template reads the conversation that its template makes of them; another one reads two
    texts, the messages and the completion. It stands beside the policy on the same device for the whole run.
    A preference model with one output: `{type: reward_model, model: org/reward-model}`; a classifier:
    `{type: reward_model, model: org/politeness, output: 1, activation: softmax}`.
    """

    type: Literal["reward_model"] = "reward_model"
    output: int = Field(0, ge=0, description="Index of the model's output that is used, from 0.")
    activation: Literal["raw", "sigmoid", "softmax"] = Field(
        "raw",
        description="`raw`: the output as it is; `sigmoid`: squeezed into [0, 1]; `softmax`: the probability "
        "of this output among all.",
    )
    min: float | None = Field(
        None, description="A lower raw output counts as this. Null, with max null too: none is cut."
    )
    max: float | None = Field(None, description="A higher raw output counts as this.")

    def violations(self, path: KeyPath) -> Iterator[Violation]:
        """Raw outputs are cut on both sides or on none; the other activations are bounded already."""
        low, high = self.min, self.max
        if low is None and high is None:
            return
        if self.activation != "raw":
            rule = f"min and max cut raw outputs, and activation is {self.activation!r}; remove them"
            yield Violation((*path, "activation"), self.activation, rule)
        elif low is None or high is None:
            missing, other = ("min", "max") if low is None else ("max", "min")
            yield Violation((*path, missing), None, f"goes with {other}; set both, or none")
        elif low >= high:
            yield Violation((*path, "min"), low, f"must be less than max ({high:.12g}); swap them")
