"""The reward histories of a run, and the advantages that P-GRPO makes with them (arXiv 2603.10009)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pgrpo_cli.algo.advantages import compute_advantages
from pgrpo_cli.algo.history import RewardHistory
from pgrpo_cli.algo.parts import PartHistory, compute_part_advantages
from pgrpo_cli.algo.types import Advantages, GroupStats
from pgrpo_cli.recipe.training import AdvantageSection, HistorySection
from pgrpo_cli.rewards.base import Score
from pgrpo_cli.state.history_store import GroupRow, HistoryStore, PartRow
from pgrpo_cli.state.records import (
    ScoredStep,
    all_part_rows,
    completion_rows,
    group_rows,
    history_rows,
    part_rows,
)


class RewardHistories:
    """What is remembered of the rewards of each preference group, as the recipe's sections say.

    `history` has the rewards as they are summed. `parts` has each summand by itself, where the recipe
    normalises before it sums; otherwise it is None. `weights`: the weight of each summand by its label.
    """

    def __init__(
        self,
        advantage: AdvantageSection,
        section: HistorySection,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self._advantage, self._section = advantage, section
        self.history = _empty(section)
        self.parts: PartHistory | None = None
        if advantage.aggregate != "sum_then_normalize":
            self.parts = PartHistory(weights or {}, _empty(section))

    def advantages(
        self,
        scores_N: Sequence[Score],
        preference_groups_N: Sequence[str],
        *,
        num_generations: int,
        step: int,
    ) -> Advantages:
        """Enter the rewards of a step into the histories, and normalise them against these.

        `preference_groups_N` are those of the completions, or others that the recipe draws for the histories.
        Whether the rewards enter before they are normalised or after says `history.update`.
        """
        if self._section.update == "before":
            self._enter(scores_N, preference_groups_N, num_generations, step)
            return self._normalised(scores_N, preference_groups_N, num_generations, min_count=0)
        advantages = self._normalised(
            scores_N, preference_groups_N, num_generations, min_count=self._section.min_count
        )
        self._enter(scores_N, preference_groups_N, num_generations, step)
        return advantages

    def _enter(self, scores_N: Sequence[Score], groups_N: Sequence[str], G: int, step: int) -> None:
        self.history.update([score.value for score in scores_N], groups_N, num_generations=G, step=step)
        if self.parts is not None:
            self.parts.update([score.terms for score in scores_N], groups_N, num_generations=G, step=step)

    def _normalised(
        self, scores_N: Sequence[Score], groups_N: Sequence[str], G: int, *, min_count: int
    ) -> Advantages:
        common: dict[str, Any] = {
            "num_generations": G,
            "estimator": self._advantage.resolved_estimator,
            "min_count": min_count,
            "clip": self._advantage.clip,
        }
        if self.parts is None:
            rewards_N = [score.value for score in scores_N]
            return compute_advantages(rewards_N, groups_N, history=self.history, **common)
        terms_N = [score.terms for score in scores_N]
        common["renormalize"] = self._advantage.renormalize
        return compute_part_advantages(terms_N, groups_N, history=self.parts, **common)

    def record(self, store: HistoryStore, scored: ScoredStep) -> dict[str, GroupStats]:
        """Write down the completions of a step, and what is known of their preference groups now. Returns
        the latter.
        """
        labels_P = scored.history_labels_P
        groups = self.history.stats(labels_P)
        store.record_step(completion_rows(scored), group_rows(groups), part_rows(self.parts, labels_P))
        return groups

    def rows(self) -> tuple[Iterator[GroupRow], Iterator[PartRow]]:
        """What `rewind` puts into history.sqlite: the statistics of preference groups, and of their parts."""
        return history_rows(self.history), all_part_rows(self.parts)

    def states(self) -> dict[str, dict[str, Any]]:
        """The `state_dict` of each history, by the name that its files have in a checkpoint."""
        return {name: history.state_dict() for name, history in self._by_name().items()}

    def load_states(self, read: Callable[[str], Mapping[str, Any]]) -> None:
        """Become what was saved; `read` gives the state of a name. Raises ValueError if one does not fit."""
        for name, history in self._by_name().items():
            history.load_state_dict(read(name))

    def _by_name(self) -> dict[str, RewardHistory | PartHistory]:
        parts = {} if self.parts is None else {"part_history": self.parts}
        return {"history": self.history, **parts}


def _empty(section: HistorySection) -> RewardHistory:
    """A history of the section's kind."""
    kind = section.kind
    return RewardHistory(
        kind.type,
        decay=getattr(kind, "decay", None),
        window=getattr(kind, "size", None),
        winsorize=section.winsorize,
    )
