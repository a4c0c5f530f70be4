"""`rewards`: what a completion is worth to a preference group."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .reward_base import RewardBase
from .reward_code import PluginReward, PythonReward
from .reward_judge import JudgeReward
from .reward_model import RewardModelReward
from .reward_personas import PersonasReward
from .reward_recommendation import RecommendationReward
from .reward_similarity import ChrfReward, EmbeddingReward, RougeReward
from .reward_text import KeywordReward, LengthReward, ReadabilityReward, RegexReward, SentimentReward

__all__ = [
    "ChrfReward",
    "EmbeddingReward",
    "JudgeReward",
    "KeywordReward",
    "LengthReward",
    "PersonasReward",
    "PluginReward",
    "PythonReward",
    "ReadabilityReward",
    "RecommendationReward",
    "RegexReward",
    "Reward",
    "RewardBase",
    "RewardModelReward",
    "RougeReward",
    "SentimentReward",
]

Reward = Annotated[
    PersonasReward
    | RegexReward
    | LengthReward
    | KeywordReward
    | ReadabilityReward
    | SentimentReward
    | RecommendationReward
    | RougeReward
    | ChrfReward
    | EmbeddingReward
    | RewardModelReward
    | JudgeReward
    | PythonReward
    | PluginReward,
    Field(discriminator="type"),
]
