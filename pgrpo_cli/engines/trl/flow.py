"""The end of each step of the recipe: whether it is saved, whether training ends, what is written down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accelerate.utils import gather_object
from transformers import TrainerCallback

if TYPE_CHECKING:
    from .run_trainer import RunTrainer


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
        trainer.unsaved = None if control.should_save else state.num_input_tokens_seen
        control.should_training_stop = over

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        # At the end TRL logs a summary, which is no update.
        if self._trainer.recorder is not None and "grad_norm" in logs:
            self._trainer.recorder.updated(logs)
