"""PGRPOTrainer: TRL's GRPOTrainer with advantages from the reward histories of preference groups."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from safetensors import SafetensorError
from torch import Tensor
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOTrainer

from pgrpo_cli.algo.history import RewardHistory
from pgrpo_cli.algo.types import Advantages
from pgrpo_cli.errors import CheckpointError, TrainingError
from pgrpo_cli.histories import RewardHistories
from pgrpo_cli.recipe.training import AdvantageSection, HistorySection
from pgrpo_cli.rewards.base import Score
from pgrpo_cli.state.history_files import history_checksum, load_history, save_history

_PREFIX = "pgrpo_"
"""What the names of the histories' files begin with in a checkpoint of TRL's."""


class PGRPOTrainer(GRPOTrainer):
    """GRPOTrainer that normalises a reward by the reward history of its preference group (P-GRPO,
    arXiv 2603.10009).

    It takes what GRPOTrainer takes, and three arguments more:

    - `preference_group`: the column of the data set that names the preference group of a prompt. Names may be
      text or numbers.
    - `advantage`: how advantages are made of rewards, by the keys of a recipe's `advantage` section, such as
      `{"estimator": "pgrpo_shrinkage"}`. The default is `pgrpo`.
    - `history`: which rewards are remembered, by the keys of a recipe's `history` section, such as
      `{"kind": {"type": "ema", "decay": 0.99}, "update": "after"}`. The default remembers all rewards alike.

    A reward function that returns None for a completion does not apply to it. A completion for which all of
    them return None enters no history and trains nothing.

    Every process holds the whole history: rewards and preference groups are gathered, so all processes
    compute the same. TRL's checkpoints contain the history, and `train(resume_from_checkpoint=...)` restores
    it, also with another number of processes. Before a checkpoint is written the histories of all processes
    are compared; TrainingError is raised if they differ. In evaluation the history is neither used nor
    changed.
    """

    def __init__(
        self,
        *args: Any,
        preference_group: str = "preference_group",
        advantage: AdvantageSection | Mapping[str, Any] | None = None,
        history: HistorySection | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Raises ValueError for a data set without the column, for an invalid section, and for arguments of
        GRPOConfig that `advantage` takes the place of.
        """
        self.preference_group = preference_group
        advantage_section = AdvantageSection.model_validate(advantage or {})
        history_section = HistorySection.model_validate(history or {})
        if history_section.preference_groups != "named":
            raise ValueError("history: preference_groups must be 'named': only pgrpo's own engine draws them")
        super().__init__(*args, **kwargs)
        self._refuse_arguments()
        self._require_column(getattr(self.train_dataset, "column_names", None))
        self.reward_labels = _distinct(self.reward_func_names)
        self.histories = RewardHistories(advantage_section, history_section, self.part_weights)
        self._scored: tuple[Sequence[Score], Sequence[str]] = ((), ())

    @property
    def history(self) -> RewardHistory:
        """The rewards of every preference group."""
        return self.histories.history

    @property
    def part_weights(self) -> dict[str, float]:
        """The weight of each reward that adds something, by label."""
        weights = zip(self.reward_labels, self.reward_weights.tolist(), strict=True)
        return {label: weight for label, weight in weights if weight != 0}

    @property
    def step(self) -> int:
        """The number of the step at hand, from 1."""
        return int(self.state.global_step) + 1

    def gathered_scores(
        self, inputs: Sequence[Mapping[str, Any]], rewards_N_F: Tensor
    ) -> tuple[list[Score], list[str]]:
        """The scores and the preference groups of the completions of all processes, in one order everywhere.

        `inputs` are the rows of this process, one per completion; `rewards_N_F` has what each of the F reward
        functions gave to each of the N completions of all processes, NaN where it does not apply.
        """
        groups_N = gather_object([self._group_of(row) for row in inputs])
        return [self._score(row_F) for row_F in rewards_N_F.double().tolist()], groups_N

    def save_histories(self, folder: Path) -> None:
        """Write the histories into a checkpoint of TRL's."""
        for name, state in self.histories.states().items():
            save_history(state, folder, f"{_PREFIX}{name}")

    def load_histories(self, folder: Path) -> None:
        """Read them from such a checkpoint. Raises CheckpointError if they are not there, or do not fit."""
        try:
            self.histories.load_states(lambda name: load_history(folder, f"{_PREFIX}{name}"))
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise CheckpointError(
                f"{folder} has no usable reward history: {error}",
                remedy="Resume from a checkpoint that PGRPOTrainer wrote with the same `advantage` and "
                "`history`.",
            ) from error

    def _calculate_rewards(self, inputs: Any, *args: Any) -> Tensor:
        rewards_N_F: Tensor = super()._calculate_rewards(inputs, *args)
        if self.model.training:
            self._scored = self.gathered_scores(inputs, rewards_N_F)
        return rewards_N_F

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if not self.model.training:
            return output
        advantages = self._personalized()
        first = self.accelerator.process_index * len(inputs)
        local = slice(first, first + len(inputs))
        output["advantages"] = advantages.advantages_N[local].to(output["advantages"])
        if not advantages.valid_N.all():
            self._train_only(output, advantages.valid_N[local])
        self._show(advantages)
        return output

    def _personalized(self) -> Advantages:
        """Enter the rewards of the step into the history, and normalise them against it."""
        scores_N, groups_N = self._scored
        return self.histories.advantages(
            scores_N, groups_N, num_generations=self.num_generations, step=self.step
        )

    def _train_only(self, output: dict[str, Any], valid_N: Tensor) -> None:
        """Mask the completions that have no reward: neither the surrogate nor the KL penalty counts them."""
        kept_N_1 = valid_N.to(output["completion_mask"]).unsqueeze(1)
        output["completion_mask"] = output["completion_mask"] * kept_N_1
        trained = output["completion_mask"] * output.get("tool_mask", 1)
        output["num_items_in_batch"] = self.accelerator.gather(trained.sum()).sum()

    def _show(self, advantages: Advantages) -> None:
        """Put the advantages in the place of GRPO's in the table of completions that TRL logs."""
        shown = self._logs["advantages"]
        for _ in range(min(len(shown), len(advantages.advantages_N))):
            shown.pop()
        shown.extend(advantages.advantages_N.tolist())

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self._require_equal_histories()
        if self.args.should_save:
            name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            folder = Path(self._get_output_dir(trial=trial)) / name
            folder.mkdir(parents=True, exist_ok=True)
            # First: a checkpoint that a kill cuts short lacks files of TRL's, and never only the history.
            self.save_histories(folder)
        super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.load_histories(Path(checkpoint))

    def _require_equal_histories(self) -> None:
        """Raise TrainingError, in all processes, if they do not have the same histories bit for bit."""
        ours = " ".join(history_checksum(state) for state in self.histories.states().values())
        sums = gather_object([ours])
        if differing := [rank for rank, theirs in enumerate(sums) if theirs != sums[0]]:
            raise TrainingError(
                f"step {self.state.global_step}: the reward history of process 0 is not that of "
                f"{', '.join(f'process {rank}' for rank in differing)}, so no checkpoint is written",
                remedy="Do all processes run the same versions, and does nothing else change the history? "
                "Resume from the last checkpoint.",
            )

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        # With `remove_unused_columns` TRL would remove it.
        if self.preference_group not in self._signature_columns:
            self._signature_columns.append(self.preference_group)

    def _refuse_arguments(self) -> None:
        replaced = (
            ("scale_rewards", "group", 'advantage={"estimator": ...}'),
            ("multi_objective_aggregation", "sum_then_normalize", 'advantage={"aggregate": ...}'),
        )
        for name, default, instead in replaced:
            if getattr(self.args, name) != default:
                raise ValueError(
                    f"{name} is {getattr(self.args, name)!r}, which would have no effect: PGRPOTrainer makes "
                    f"advantages by {instead}; leave {name} out"
                )

    def _require_column(self, columns: Sequence[str] | None) -> None:
        # The columns of a data set that is streamed may be unknown.
        if columns is not None and self.preference_group not in columns:
            raise ValueError(
                f"the training data have no column {self.preference_group!r} (columns: "
                f"{', '.join(columns)}); name the column that says which preference group a prompt belongs "
                "to with PGRPOTrainer(preference_group=...)"
            )

    def _group_of(self, row: Mapping[str, Any]) -> str:
        group = row.get(self.preference_group)
        if group is None:
            self._require_column(list(row))
            raise ValueError(f"the column {self.preference_group!r} is empty for {row.get('prompt')!r}")
        return str(group)

    def _score(self, rewards_F: Sequence[float]) -> Score:
        """The weighted sum of what the reward functions gave, without those that do not apply; NaN if none
        does.
        """
        pairs = zip(self.reward_labels, rewards_F, strict=True)
        given = {label: reward for label, reward in pairs if not math.isnan(reward)}
        weights = self.part_weights
        if not given:
            return Score(math.nan, {}, dict.fromkeys(weights, math.nan))
        terms = {label: reward for label, reward in given.items() if label in weights}
        return Score(sum(weights[label] * reward for label, reward in terms.items()), given, terms)


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, with a number behind each that came before."""

    def numbered(name: str, taken: set[str]) -> Iterator[str]:
        yield name
        for number in range(2, len(taken) + 3):
            yield f"{name}-{number}"

    taken: set[str] = set()
    distinct = []
    for name in names:
        label = next(label for label in numbered(name.replace("/", "-"), taken) if label not in taken)
        taken.add(label)
        distinct.append(label)
    return distinct
