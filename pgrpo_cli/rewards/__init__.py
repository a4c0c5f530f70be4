"""What a completion is worth to a preference group: the protocol, the weighted sum, the built-in rewards."""

from __future__ import annotations

from .base import Completion, RewardFunction, Score
from .build import RewardSum, build_rewards

__all__ = ["Completion", "RewardFunction", "RewardSum", "Score", "build_rewards"]
