"""The algorithm: reward histories, advantages, losses, intervals.

Tensors and numbers in, tensors and numbers out; needs torch only. The formulas are in docs/algorithm.md.
"""

from .advantages import PRESETS, Estimator, compute_advantages, resolve_estimator
from .history import RewardHistory
from .losses import mean_metrics, policy_loss
from .parts import PartHistory, compute_part_advantages
from .types import Advantages, GroupStats, HistoryLookup, LossOutput

__all__ = [
    "PRESETS",
    "Advantages",
    "Estimator",
    "GroupStats",
    "HistoryLookup",
    "LossOutput",
    "PartHistory",
    "RewardHistory",
    "compute_advantages",
    "compute_part_advantages",
    "mean_metrics",
    "policy_loss",
    "resolve_estimator",
]
