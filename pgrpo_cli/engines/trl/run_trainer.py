"""The PGRPOTrainer of a run: a recipe's batches, rewards, schedule and checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from pgrpo_cli.algo.types import Advantages
from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.model.load.adapter import WEIGHTS, adapter_state
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.rewards.base import Score
from pgrpo_cli.state.adapter import Adapter
from pgrpo_cli.state.checkpoint import Checkpoint
from pgrpo_cli.state.run import RunDirectory

from .recording import Recorder, StepFacts
from .rewards import INDEX, RecipeReward, summed_usage
from .trainer import PGRPOTrainer


class RunTrainer(PGRPOTrainer):
    """Trains as the recipe says. A step has `train.updates_per_rollout` updates; TRL counts the updates.

    `recorder`: in the first process only. `stop_requested` is asked once a step, in every process; if it
    answers True in one of them, all stop after that step, which is saved.
    """

    def __init__(
        self,
        *,
        run: RunDirectory,
        recipe: Recipe,
        prompts: Sequence[PreparedPrompt],
        reward: RecipeReward,
        checkpoint: Checkpoint | None,
        stop_requested: Callable[[], bool],
        **arguments: Any,
    ) -> None:
        self.run, self.recipe, self.reward, self.checkpoint = run, recipe, reward, checkpoint
        self.recorder: Recorder | None = None
        self.stopping = False
        self._stop_requested = stop_requested
        self._prompts = prompts
        self._input_ids = {prompt.prompt: prompt.input_ids for prompt in prompts}
        self._completions: tuple[Sequence[str], Sequence[Sequence[int]]] = ((), ())
        adapter = {name: p.detach().clone() for name, p in _trainable(arguments["model"])}
        super().__init__(
            reward_funcs=[reward],
            advantage=recipe.advantage,
            history=recipe.history,
            callbacks=[_Flow(self)],
            **arguments,
        )
        self.remove_callback(PrinterCallback)
        self._keep_adapter(adapter)

    @property
    def updates(self) -> int:
        """Updates of a step."""
        return self.recipe.train.updates_per_rollout

    @property
    def step(self) -> int:
        """The number of the recipe's step at hand, from 1."""
        return int(self.state.global_step) // self.updates + 1

    @property
    def part_weights(self) -> dict[str, float]:
        """Those of the recipe: to TRL its rewards are one."""
        return self.reward.weights

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """The learning rate of the recipe: TRL's warm-up begins at 0, the recipe's one step later."""
        train = self.recipe.train

        def factor(update: int) -> float:
            return train.learning_rate_at(min(update // self.updates + 1, train.steps)) / train.learning_rate

        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, factor)
        return self.lr_scheduler

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """A run writes its own, once it is finished."""

    def save_histories(self, folder: Path) -> None:
        """The checkpoint of the run contains them."""

    def load_histories(self, folder: Path) -> None:
        """Read them from the checkpoint of the run."""
        assert self.checkpoint is not None
        with self.checkpoint.readable():
            self.history.load_state_dict(self.checkpoint.history_state())
            if self.parts is not None:
                self.parts.load_state_dict(self.checkpoint.part_history_state())

    def _enter(self, phase: str | None) -> None:
        if self.recorder is not None:
            self.recorder.clock.enter(phase)

    def _tokenize_prompts(self, prompts: Sequence[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [list(self._input_ids[prompt]) for prompt in prompts], None, {}

    def _generate(self, prompts: Any) -> Any:
        self._enter("rollout")
        return super()._generate(prompts)

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, ids: Any) -> Tensor:
        self._enter("reward")
        self._completions = (completions, ids)
        return super()._calculate_rewards(inputs, prompts, completions, ids)

    def gathered_scores(
        self, inputs: Sequence[Mapping[str, Any]], rewards_N_F: Tensor
    ) -> tuple[list[Score], list[str]]:
        """The same, with every part of each reward; and what the records need to know of the completions."""
        stop = self._stop_requested()
        rows_N = gather_object(
            [
                (row[INDEX], text, len(ids), ids[-1] in self.eos_token_ids, score, stop)
                for row, text, ids, score in zip(inputs, *self._completions, self.reward.scores, strict=True)
            ]
        )
        indices_N, self._texts_N, self._lengths_N, self._finished_N, scores_N, stops = zip(
            *rows_N, strict=True
        )
        self.stopping = any(stops)
        self._prompts_P = [self._prompts[index] for index in indices_N[:: self.num_generations]]
        groups_N = [self._prompts[index].preference_group for index in indices_N]
        return list(scores_N), groups_N

    def _personalized(self) -> Advantages:
        advantages = super()._personalized()
        self._advantages = advantages
        return advantages

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        masks = (output["prompt_mask"], output["completion_mask"])
        tokens = sum(mask.numel() for mask in masks)
        padding = tokens - sum(int(mask.sum()) for mask in masks)
        gathered = gather_object([(tokens, padding, self.reward.usage)])
        if self.recorder is not None:
            all_tokens, all_padding, usage = zip(*gathered, strict=True)
            self.recorder.facts = StepFacts(
                self._scored_step(), sum(all_tokens), sum(all_padding), summed_usage(usage)
            )
        self._enter("training")
        return output

    def _scored_step(self) -> dict[str, Any]:
        """The completions of the step, of all processes, as the records take them."""
        return {
            "step": self.step,
            "num_generations": self.num_generations,
            "prompt_ids_P": [prompt.prompt_id for prompt in self._prompts_P],
            "preference_groups_P": [prompt.preference_group for prompt in self._prompts_P],
            "texts_N": self._texts_N,
            "lengths_N": self._lengths_N,
            "finished_N": self._finished_N,
            "scores_N": self._scored[0],
            "advantages_N": self._advantages.advantages_N.tolist(),
            "clipped_fraction": self._advantages.clipped_N.double().mean().item(),
        }

    def _get_output_dir(self, trial: Any) -> str:
        """TRL saves beside the run's checkpoints, under a name that is removed if it stays unfinished."""
        return str(self.run.checkpoints / f".step-{self.state.global_step // self.updates:06d}.trl.tmp")

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        # Each process writes the state of its random numbers.
        self.accelerator.wait_for_everyone()
        if self.recorder is not None:
            place = Path(self._get_output_dir(trial))
            saved = place / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            # A pickle that nothing reads again.
            (saved / "training_args.bin").unlink(missing_ok=True)
            self.recorder.save(saved, self.adapter_in(saved))
            place.rmdir()

    def adapter_in(self, saved: Path) -> Adapter:
        """The adapter of a checkpoint that TRL has written."""
        from safetensors.torch import load_file

        _, config = adapter_state(self.accelerator.unwrap_model(self.model))
        return Adapter(load_file(saved / WEIGHTS), config)

    def _keep_adapter(self, adapter: Mapping[str, Tensor]) -> None:
        """Undo two changes of TRL's to the adapter that it was given.

        Of an adapter with a KL penalty it makes a copy as the reference. Here the reference is the base
        model, which a new adapter does not change, and which is the same when a run is resumed. And it
        rounds an adapter on quantized weights to bfloat16, where small updates would be lost; engines that
        shard the weights need it as TRL made it.
        """
        model = self.accelerator.unwrap_model(self.model)
        if "ref" in model.peft_config:
            model.delete_adapter("ref")
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return
        for name, parameter in _trainable(model):
            if parameter.dtype != adapter[name].dtype:
                parameter.data = adapter[name].to(parameter.device)


class _Flow(TrainerCallback):
    """When a step of the recipe is done: what is saved, when it ends, what is written down."""

    def __init__(self, trainer: RunTrainer) -> None:
        self._trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        trainer, train = self._trainer, self._trainer.recipe.train
        step, update = divmod(state.global_step, trainer.updates)
        if update:
            return
        control.should_save = trainer.stopping or step == train.steps or step % train.save_every == 0
        control.should_training_stop = trainer.stopping or step == train.steps

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        # At the end TRL logs a summary, which is no update.
        if self._trainer.recorder is not None and "grad_norm" in logs:
            self._trainer.recorder.updated(logs)


def _trainable(model: Any) -> list[tuple[str, Tensor]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]
