"""Where a person stands among the preference groups of a run, while they pick."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pgrpo_cli.errors import PgrpoError, RewardError
from pgrpo_cli.eval.matrix import cross_scores, depends
from pgrpo_cli.recipe.reward_base import RewardBase
from pgrpo_cli.rewards.base import Completion
from pgrpo_cli.rewards.build import build_rewards
from pgrpo_cli.rewards.reward_sum import RewardSum
from pgrpo_cli.rewards.scoring import Scorer

from .placement import Floats, most_telling, posterior

if TYPE_CHECKING:
    from .questions import Question

NOBODY = "nobody yet"
"""Stands beside the names of preference groups where probabilities are told."""


@dataclass
class Placing:
    """Scores answers by the reward of every preference group, and remembers what was picked."""

    rewards: RewardSum
    groups: Sequence[str]
    on_note: Callable[[str], None] = lambda text: None
    _scores: dict[tuple[str, str, str], Floats] = field(default_factory=dict)
    _picks: list[tuple[Floats, Floats, float]] = field(default_factory=list)
    _told: bool = False

    def add(self, question: Question, answers: tuple[str, str], mark: str) -> None:
        """A pick: `1`, `2` or `=`."""
        first, second = self._scored(question, answers)
        self._picks.append((first, second, {"1": 1.0, "2": 0.0, "=": 0.5}[mark]))

    def take_back(self, back: int = 1) -> None:
        """The last pick is undone, or the one so many places from the end."""
        self._picks.pop(-back)

    def probabilities(self) -> Mapping[str, float]:
        """Of each preference group, and of `NOBODY`; equal ones before the first pick."""
        return dict(zip([*self.groups, NOBODY], self._posterior().tolist(), strict=True))

    def likely(self) -> str | None:
        """The preference group that is likelier than everything else together."""
        found = self.probabilities()
        return next((group for group in self.groups if found[group] > 0.5), None)

    def most_telling(self, question: Question, pairs: Sequence[tuple[str, str]]) -> int:
        """Which of the pairs of answers is expected to tell most."""
        scored = [self._scored(question, pair) for pair in pairs]
        first, second = (np.stack([pair[side] for pair in scored]) for side in (0, 1))
        return most_telling(first, second, self._scale(), self._posterior())

    def _posterior(self) -> Floats:
        empty = np.zeros((0, len(self.groups)))
        first = np.stack([pick[0] for pick in self._picks]) if self._picks else empty
        second = np.stack([pick[1] for pick in self._picks]) if self._picks else empty
        return posterior(first, second, [pick[2] for pick in self._picks], self._scale())

    def _scale(self) -> Floats:
        """The standard deviation of each group's reward over all answers that were looked at."""
        if not self._scores:
            return np.zeros(len(self.groups))
        return np.nanstd(np.stack(list(self._scores.values())), axis=0)  # type: ignore[no-any-return]

    def _scored(self, question: Question, answers: Sequence[str]) -> list[Floats]:
        """The reward of each answer by each preference group, NaN where it cannot be computed."""
        key = question.prompt_id, question.text
        missing = [text for text in answers if (*key, text) not in self._scores]
        if missing:
            messages = [*(question.turns or ()), {"role": "user", "content": question.text}]
            completions = [
                Completion(question.prompt_id, "", question.text, text, question.columns, messages)
                for text in missing
            ]
            try:
                with Scorer(self.rewards) as scorer:
                    by_group = cross_scores(scorer, completions, self.groups)
            except RewardError as error:
                # Such as a question that lacks a column which a reward reads: its picks tell nothing.
                if not self._told:
                    self.on_note(f"note: picks of some questions do not place you: {error.message}")
                    self._told = True
                return [np.full(len(self.groups), np.nan) for _ in answers]
            for index, text in enumerate(missing):
                self._scores[*key, text] = np.array([by_group[g][index] for g in self.groups])
        return [self._scores[*key, text] for text in answers]


def placing_of(
    rewards: Sequence[RewardBase],
    recipe_dir: Path,
    groups: Sequence[str],
    run_dir: Path,
    *,
    device: Any,
    on_note: Callable[[str], None] = lambda text: None,
) -> Placing | None:
    """What places a person among the groups of a run; None where its rewards treat all groups alike.

    Only rewards that tell preference groups apart are built. Judges and code of the user's, which cost money
    or time, have no part in it. Where one of them cannot be built, such as a taste reward of picks that
    cannot be predicted yet, `on_note` is told, and nobody is placed.
    """
    sections = [section for section in rewards if section.weight != 0 and depends(section)]
    if len(groups) < 2 or not sections:
        return None
    try:
        built = build_rewards(sections, recipe_dir, False, run_dir=run_dir, device=device)
    except PgrpoError as error:
        on_note(f"note: nobody is placed in a preference group: {error.message}")
        return None
    return Placing(built, tuple(groups), on_note)
