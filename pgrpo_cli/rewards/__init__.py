"""What a completion is worth to a preference group: the protocol, the weighted sum, the built-in rewards."""

from __future__ import annotations

from .base import AsyncRewardFunction, Completion, RewardFunction, Score
from .build import build_rewards
from .reward_sum import RewardSum
from .scoring import Scorer

__all__ = [
    "AsyncRewardFunction",
    "Completion",
    "RewardFunction",
    "RewardSum",
    "Score",
    "Scorer",
    "build_rewards",
]
