"""What a step leaves on disk: its rows of history.sqlite and its line of metrics.jsonl."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pgrpo_cli.algo.history import RewardHistory
from pgrpo_cli.algo.parts import PartHistory
from pgrpo_cli.algo.types import Advantages, GroupStats
from pgrpo_cli.model.rollouts import Rollouts
from pgrpo_cli.model.update.policy_update import UpdateResult, learning_rate
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.rewards.base import Score

from .history_store import GroupRow, PartRow, ScoredCompletion, encode_parts

_ROWS_AT_ONCE = 10_000


def group_rows(groups: Mapping[str, GroupStats]) -> list[GroupRow]:
    """Statistics of preference groups as rows of the store."""
    return [
        GroupRow(
            name,
            s.n,
            s.mean,
            s.std,
            s.first_step,
            s.last_step,
            s.prompts,
            s.within_variance,
            s.between_variance,
        )
        for name, s in groups.items()
    ]


def part_rows(parts: PartHistory | None, preference_groups: Iterable[str]) -> list[PartRow]:
    """Statistics of the parts of preference groups as rows of the store; none without such a history."""
    return [_part_row(*found) for found in parts.stats(preference_groups)] if parts else []


def all_part_rows(parts: PartHistory | None) -> Iterator[PartRow]:
    """Those of all preference groups, made as they are asked for."""
    yield from (_part_row(*found) for found in parts.all_stats()) if parts else ()


def _part_row(group: str, part: str, stats: GroupStats) -> PartRow:
    (row,) = group_rows({group: stats})
    return PartRow(**vars(row), part=part)


def history_rows(history: RewardHistory) -> Iterator[GroupRow]:
    """All of the history as rows of the store, made as they are asked for: there may be a million."""
    names = history.preference_groups
    for start in range(0, len(names), _ROWS_AT_ONCE):
        yield from group_rows(history.stats(names[start : start + _ROWS_AT_ONCE]))


def completion_rows(
    step: int, rollouts: Rollouts, scores_N: Sequence[Score], advantages: Advantages
) -> list[ScoredCompletion]:
    """A row a completion."""
    lengths_N = rollouts.lengths_N
    advantages_N = advantages.advantages_N.tolist()
    rows = []
    for n, score in enumerate(scores_N):
        p, g = divmod(n, rollouts.num_generations)
        prompt = rollouts.prompts[p]
        rows.append(
            ScoredCompletion(
                step=step,
                prompt=p,
                generation=g,
                prompt_id=prompt.prompt_id,
                preference_group=prompt.preference_group,
                reward=None if math.isnan(score.value) else score.value,
                parts=encode_parts(score.parts),
                advantage=advantages_N[n],
                length=lengths_N[n],
                text=rollouts.texts_N[n],
            )
        )
    return rows


def step_record(
    step: int,
    recipe: Recipe,
    rollouts: Rollouts,
    scores_N: Sequence[Score],
    advantages: Advantages,
    updates: Sequence[UpdateResult],
    seconds: dict[str, float],
    budgets: dict[str, int],
    usage: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, Any]:
    """The step's line of metrics.jsonl; docs/metrics.md has the formulas.

    `updates`: those made from the rollouts; the last one's loss goes on record. `seconds`: by phase;
    `budgets`: tokens that may be computed at a time, by what they are budgets of; `usage`: what rewards used
    in this step, by label.
    """
    update, tokens = updates[-1], sum(u.tokens for u in updates)
    rewards = [score.value for score in scores_N if not math.isnan(score.value)]
    by_group: dict[str, list[float]] = {}
    for group, score in zip(rollouts.preference_groups_N, scores_N, strict=True):
        if not math.isnan(score.value):
            by_group.setdefault(group, []).append(score.value)
    lowered = [u.lowered_scale for u in updates if u.lowered_scale is not None]
    lengths_N = rollouts.lengths_N
    mask_N_T = rollouts.completion_mask_N_T
    return {
        "step": step,
        "reward_mean": statistics.fmean(rewards) if rewards else None,
        "reward_std": statistics.stdev(rewards) if len(rewards) > 1 else None,
        "missing_rewards": len(scores_N) - len(rewards),
        "advantage_abs_mean": advantages.advantages_N.abs().mean().item(),
        "loss": update.loss,
        "grad_norm": update.grad_norm,
        "learning_rate": learning_rate(recipe.train, step),
        **({"loss_scale": lowered[-1]} if lowered else {}),
        "entropy": -rollouts.sampling_logprobs_N_T[mask_N_T].mean().item(),
        "completion_length_mean": statistics.fmean(lengths_N),
        "truncated_fraction": 1 - rollouts.finished_N.double().mean().item(),
        **update.metrics,
        "groups": {name: {"n": len(v), "mean": statistics.fmean(v)} for name, v in sorted(by_group.items())},
        "tokens": {"completions": sum(lengths_N), "training": tokens, "budgets": budgets},
        **({"usage": usage} if usage else {}),
        "padding_fraction": sum(u.padding for u in updates) / tokens,
        **_times(seconds, sum(u.reference_seconds for u in updates), sum(lengths_N), tokens),
    }


def _times(
    seconds: Mapping[str, float], reference: float, completion_tokens: int, training_tokens: int
) -> dict[str, dict[str, float]]:
    """Seconds by phase, with the reference passes taken out of training, and tokens a second of each."""
    phases = {**seconds}
    if reference:
        phases["reference"], phases["training"] = reference, seconds["training"] - reference
    tokens = {
        "rollout": completion_tokens,
        "reward": completion_tokens,
        "reference": training_tokens,
        "training": training_tokens,
    }
    return {
        "seconds": {**{k: round(v, 4) for k, v in phases.items()}, "total": round(sum(seconds.values()), 4)},
        "tokens_per_second": {k: round(tokens[k] / v, 1) for k, v in phases.items() if k in tokens and v > 0},
    }
