"""The rewards of a recipe as one reward function of TRL's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from accelerate.utils import gather_object

from pgrpo_cli.data.records import PreparedPrompt, completion_of
from pgrpo_cli.errors import RewardError
from pgrpo_cli.rewards.base import Score
from pgrpo_cli.rewards.scoring import Scorer

INDEX = "prompt_index"
"""The column of the data set that says which prompt a row is."""


class RecipeReward:
    """Scores the completions of this process, each once; asynchronous rewards work at the same time.

    TRL takes one number per completion; `scores` and `usage` keep the whole of the latest call. `weights`:
    those of the recipe's rewards, by label.
    """

    __name__ = "reward"

    def __init__(
        self, scorer: Scorer, weights: Mapping[str, float], prompts: Sequence[PreparedPrompt]
    ) -> None:
        self._scorer, self._prompts = scorer, prompts
        self.weights = dict(weights)
        self.scores: Sequence[Score] = ()
        self.usage: Mapping[str, Mapping[str, float]] = {}

    def __call__(self, completions: Sequence[str], prompt_index: Sequence[int], **_: Any) -> list[float]:
        """The value of each completion; NaN where there is none. Raises RewardError in every process if a
        reward fails in one of them.
        """
        pending, failure = self._scorer.start(), None
        pairs = zip(prompt_index, completions, strict=True)
        try:
            self.scores = pending.scores([completion_of(self._prompts[index], text) for index, text in pairs])
        except RewardError as error:
            failure = error
        # An error would not survive the way to another process; its words do.
        words = gather_object([failure and (failure.message, failure.remedy)])
        for message, remedy in filter(None, words):
            raise RewardError(message, remedy=remedy) from failure
        self.usage = pending.usage()
        return [score.value for score in self.scores]


def summed_usage(of_processes: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """What the rewards of all processes have used, by label, then by what was counted."""
    total: dict[str, dict[str, float]] = {}
    for usage in of_processes:
        for label, counts in usage.items():
            sums = total.setdefault(label, {})
            for name, count in counts.items():
                sums[name] = sums.get(name, 0) + count
    return total
