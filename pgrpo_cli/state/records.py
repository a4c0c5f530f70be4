"""What a step leaves on disk: its rows of history.sqlite and its line of metrics.jsonl."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pgrpo_cli.algo.history import RewardHistory
from pgrpo_cli.algo.parts import PartHistory
from pgrpo_cli.algo.types import GroupStats, UpdateResult
from pgrpo_cli.rewards.base import Score

from .history_store import GroupRow, PartRow, ScoredCompletion, encode_parts

_ROWS_AT_ONCE = 10_000


@dataclass(frozen=True)
class ScoredStep:
    """The completions of one step, scored, in the plain values that any trainer has.

    There are N = P·G completions, prompt-major: the G completions of the first prompt come first. `entropy`:
    the mean of -log p over all sampled tokens, in nats; None if it is unknown. `finished_N`: whether a
    completion ended by itself. `clipped_fraction`: the share of completions whose advantage was clipped.
    `random_groups_P`: with `history.preference_groups: random`, what was drawn for each prompt in place of
    its preference group.
    """

    step: int
    num_generations: int
    prompt_ids_P: Sequence[str]
    preference_groups_P: Sequence[str]
    texts_N: Sequence[str]
    lengths_N: Sequence[int]
    finished_N: Sequence[bool]
    scores_N: Sequence[Score]
    advantages_N: Sequence[float]
    clipped_fraction: float
    entropy: float | None
    random_groups_P: Sequence[str] | None = None

    @property
    def history_labels_P(self) -> Sequence[str]:
        """Whose history the rewards of each prompt have entered."""
        return self.preference_groups_P if self.random_groups_P is None else self.random_groups_P


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


def completion_rows(scored: ScoredStep) -> list[ScoredCompletion]:
    """One row per completion."""
    rows = []
    for n, score in enumerate(scored.scores_N):
        p, g = divmod(n, scored.num_generations)
        rows.append(
            ScoredCompletion(
                step=scored.step,
                prompt=p,
                generation=g,
                prompt_id=scored.prompt_ids_P[p],
                preference_group=scored.preference_groups_P[p],
                reward=None if math.isnan(score.value) else score.value,
                parts=encode_parts(score.parts),
                advantage=scored.advantages_N[n],
                length=scored.lengths_N[n],
                text=scored.texts_N[n],
            )
        )
    return rows


def step_record(
    scored: ScoredStep,
    updates: Sequence[UpdateResult],
    learning_rate: float,
    seconds: dict[str, float],
    budgets: dict[str, int],
    usage: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, Any]:
    """The step's line of metrics.jsonl; docs/metrics.md has the formulas.

    `updates`: those made from the completions; the last one's loss is recorded. `seconds`: by phase;
    `budgets`: tokens that may be computed at a time, by what they are budgets of; `usage`: what rewards used
    in this step, by label.
    """
    update, tokens = updates[-1], sum(u.tokens for u in updates)
    values_N = [score.value for score in scored.scores_N]
    rewards = [value for value in values_N if not math.isnan(value)]
    drawn = scored.random_groups_P
    lowered = [u.lowered_scale for u in updates if u.lowered_scale is not None]
    completion_tokens = sum(scored.lengths_N)
    return {
        "step": scored.step,
        "reward_mean": statistics.fmean(rewards) if rewards else None,
        "reward_std": statistics.stdev(rewards) if len(rewards) > 1 else None,
        "missing_rewards": len(scored.scores_N) - len(rewards),
        "advantage_abs_mean": statistics.fmean(map(abs, scored.advantages_N)),
        "advantage_clip_fraction": scored.clipped_fraction,
        "loss": update.loss,
        "grad_norm": update.grad_norm,
        "learning_rate": learning_rate,
        **({"loss_scale": lowered[-1]} if lowered else {}),
        "entropy": scored.entropy,
        "completion_length_mean": statistics.fmean(scored.lengths_N),
        "truncated_fraction": 1 - statistics.fmean(scored.finished_N),
        **update.metrics,
        "groups": _means(scored.preference_groups_P, values_N),
        **({"random_groups": _means(drawn, values_N)} if drawn is not None else {}),
        "tokens": {"completions": completion_tokens, "training": tokens, "budgets": budgets},
        **({"usage": usage} if usage else {}),
        "padding_fraction": sum(u.padding for u in updates) / tokens,
        **_times(seconds, sum(u.reference_seconds for u in updates), completion_tokens, tokens),
    }


def _means(labels_P: Sequence[str], values_N: Sequence[float]) -> dict[str, dict[str, float]]:
    """The number and the mean of the rewards of each label, in the order of labels; missing ones are left
    out.
    """
    G = len(values_N) // len(labels_P)
    found: dict[str, list[float]] = {}
    for n, value in enumerate(values_N):
        if not math.isnan(value):
            found.setdefault(labels_P[n // G], []).append(value)
    return {label: {"n": len(v), "mean": statistics.fmean(v)} for label, v in sorted(found.items())}


def _times(
    seconds: Mapping[str, float], reference: float, completion_tokens: int, training_tokens: int
) -> dict[str, dict[str, float]]:
    """Seconds by phase, with the reference passes taken out of training, and tokens per second of each."""
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
