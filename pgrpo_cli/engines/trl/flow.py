"""The end of each step of the recipe: whether it is saved, whether training ends, what is written down."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import TrainerCallback, TrainerState

if TYPE_CHECKING:
    from .run_trainer import RunTrainer


@dataclass(frozen=True)
class StepEnd:
    """What the sampling of the next step changes: random numbers, and TRL's count of tokens."""

    random: Any
    numpy: Any
    torch: Tensor
    cuda: Tensor | None
    tokens: int

    @classmethod
    def of(cls, state: TrainerState) -> StepEnd:
        """As it is now."""
        cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
        numbers = (random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda)
        return cls(*numbers, state.num_input_tokens_seen)

    def put_back(self, state: TrainerState) -> None:
        """Make it so again."""
        random.setstate(self.random)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda)
        state.num_input_tokens_seen = self.tokens


class Flow(TrainerCallback):
    """What TRL tells of its updates, as the recipe counts them: several may be one step."""

    def __init__(self, trainer: RunTrainer) -> None:
        self._trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        trainer, train = self._trainer, self._trainer.recipe.train
        step, update = divmod(state.global_step, trainer.updates)
        if update:
            return
        # A signal may have come to one process only.
        over = step == train.steps or any(gather_object([trainer.stop_requested()]))
        control.should_save = over or step % train.save_every == 0
        trainer.unsaved = None if control.should_save else StepEnd.of(state)
        control.should_training_stop = over

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        # At the end TRL logs a summary, which is no update.
        if self._trainer.recorder is not None and "grad_norm" in logs:
            self._trainer.recorder.updated(logs)
