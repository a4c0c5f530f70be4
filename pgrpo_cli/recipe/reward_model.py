"""`rewards` with `type: reward_model`: a classifier that was trained to score answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .reward_base import RewardBase
from .reward_pretrained import PretrainedFields


class RewardModelReward(PretrainedFields, RewardBase):
    """An output of a sequence classification model on prompt and completion.

    A model with a chat template reads the conversation that its template makes of them; another one reads two
    texts, the messages and the completion. It stands beside the policy on the same device for the whole run.
    A preference model with one output: `{type: reward_model, model: org/reward-model}`; a classifier:
    `{type: reward_model, model: org/politeness, output: 1, activation: softmax}`.
    """

    type: Literal["reward_model"] = "reward_model"
    output: int = Field(0, ge=0, description="Which of the model's outputs counts, from 0.")
    activation: Literal["raw", "sigmoid", "softmax"] = Field(
        "raw",
        description="`raw`: the output as it is; `sigmoid`: squeezed into [0, 1]; `softmax`: the probability "
        "of this output among all.",
    )
    min: float | None = Field(
        None, description="A lower raw output counts as this. Null, with max null too: none is cut."
    )
    max: float | None = Field(None, description="A higher raw output counts as this.")
