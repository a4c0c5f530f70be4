"""When a run that trains writes its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pgrpo_cli.algo.history import RewardHistory
from pgrpo_cli.algo.parts import PartHistory
from pgrpo_cli.errors import RewardError
from pgrpo_cli.model.policy import Policy

from .checkpoint import save_checkpoint
from .run import RunDirectory


@dataclass
class Saver:
    """Writes checkpoints; at the end of a `with` block in which a reward failed, such as a judge that has
    gone, also one of the last step that was done: up to its rewards a step changes nothing that is saved.

    `done` is the last step that is done, `saved` the last one with a checkpoint; `keep` checkpoints stay.
    """

    run: RunDirectory
    policy: Policy
    optimizer: torch.optim.Optimizer
    history: RewardHistory
    parts: PartHistory | None
    keep: int
    saved: int
    done: int = 0

    def save(self, step: int) -> None:
        """Write the checkpoint of a step that is done. Raises CheckpointError if the disk refuses."""
        save_checkpoint(
            self.run,
            step,
            self.policy,
            self.optimizer,
            self.history.state_dict(),
            self.parts.state_dict() if self.parts else None,
            keep=self.keep,
        )
        self.saved = step

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, RewardError) and self.done > self.saved:
            self.save(self.done)
