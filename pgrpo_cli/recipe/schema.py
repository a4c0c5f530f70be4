"""The recipe: one immutable object with all settings of a run."""

from __future__ import annotations

from pydantic import Field

from .base import Section
from .data import DataSection
from .evaluation import EvalSection
from .model import AdapterSection, ModelSection
from .rewards import Reward
from .training import (
    AdvantageSection,
    HistorySection,
    LogSection,
    LossSection,
    RolloutSection,
    TrainSection,
)


class Recipe(Section):
    """Everything that a run depends on."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=200,
        description="Name of the recipe; the run lands in `runs/<name>`.",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of all randomness.")
    model: ModelSection = Field(description="The base model.")
    adapter: AdapterSection = Field(AdapterSection(), description="The LoRA adapter.")
    data: DataSection = Field(description="Prompts with preference groups.")
    rewards: tuple[Reward, ...] = Field(min_length=1, description="Rewards, summed by weight.")
    rollout: RolloutSection = Field(RolloutSection(), description="Sampling.")
    advantage: AdvantageSection = Field(AdvantageSection(), description="From rewards to advantages.")
    history: HistorySection = Field(HistorySection(), description="The reward history.")
    loss: LossSection = Field(LossSection(), description="The loss.")
    train: TrainSection = Field(TrainSection(), description="The loop.")
    eval: EvalSection = Field(EvalSection(), description="Evaluation.")
    log: LogSection = Field(LogSection(), description="Trackers.")
