"""What rewards such as a judge have used, in words."""

from __future__ import annotations

from collections.abc import Mapping

from .reward_sum import RewardSum


def sentences_about(rewards: RewardSum) -> list[str]:
    """What rewards have used, and what has failed of what they asked."""
    return [*usage_sentences(rewards.usage()), *rewards.complaints()]


def usage_sentences(usage: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A sentence a reward that counts what it uses and has used anything, from its counts by name."""
    return [
        f"{label}: {', '.join(_worded(counts))}" for label, counts in usage.items() if any(counts.values())
    ]


def _worded(counts: Mapping[str, float]) -> list[str]:
    return [
        f"{name.replace('_', ' ')} {count:,.4f}"
        if isinstance(count, float)
        else f"{name.replace('_', ' ')} {count:,}"
        for name, count in counts.items()
    ]
