"""`rewards`: what a completion is worth to a preference group."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .reward_base import RewardBase
from .reward_code import CodeSection, PluginReward, PythonReward
from .reward_judge import JudgeReward
from .reward_pretrained import RewardModelReward
from .reward_recommendation import RecommendationReward
from .reward_similarity import ChrfReward, EmbeddingReward, RougeReward, SimilaritySection
from .reward_text import (
    KeywordReward,
    LengthReward,
    PersonasReward,
    ReadabilityReward,
    RegexReward,
    SentimentReward,
    TextSection,
)

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
    TextSection | RecommendationReward | SimilaritySection | RewardModelReward | JudgeReward | CodeSection,
    Field(discriminator="type"),
]
