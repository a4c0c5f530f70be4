"""The PGRPOTrainer of a run: a recipe's batches, rewards, schedule and checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerState, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from pgrpo_cli.algo.types import Advantages
from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.errors import RecipeError
from pgrpo_cli.model.load.adapter import WEIGHTS, adapter_state, restore_adapter
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.rewards.base import Score
from pgrpo_cli.seeding import derive_seed
from pgrpo_cli.state.adapter import Adapter
from pgrpo_cli.state.checkpoint import ENGINE, Checkpoint
from pgrpo_cli.state.run import RunDirectory

from .flow import Flow
from .recording import METRICS, Recorder, StepFacts
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
        self.unsaved: int | None = None
        self.stop_requested = stop_requested
        self._prompts = prompts
        self._input_ids = {prompt.prompt: prompt.input_ids for prompt in prompts}
        self._completions: tuple[Sequence[str], Sequence[Sequence[int]]] = ((), ())
        self._trained: list[Tensor] = []
        adapter = {name: p.detach().clone() for name, p in _trainable(arguments["model"])}
        super().__init__(
            reward_funcs=[reward],
            advantage=recipe.advantage,
            history=recipe.resolved_history,
            callbacks=[Flow(self)],
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

        self.lr_scheduler = _Schedule(optimizer or self.optimizer, factor)
        return self.lr_scheduler

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """A run writes its own, once it is finished."""

    def _send_telemetry(self) -> None:
        """Nobody is told of a run. The variable that forbids it would have to be set before any import."""

    def save_histories(self, folder: Path) -> None:
        """The checkpoint of the run contains them."""

    def load_histories(self, folder: Path) -> None:
        """Read them from the checkpoint of the run."""
        assert self.checkpoint is not None
        with self.checkpoint.readable():
            self.histories.load_states(self.checkpoint.history_state)

    def refuse_checkpoint(self, allow_code: bool) -> None:
        """Raise CheckpointError, or RecipeError, unless TRL may read its files in the checkpoint of the run.

        A run directory may come from a stranger. TRL reads pickles, but nothing of them is executed; FSDP and
        DeepSpeed can execute what theirs name.
        """
        checkpoint = self.checkpoint
        assert checkpoint is not None
        if self._engine_reads and not allow_code:
            raise RecipeError(
                f"FSDP and DeepSpeed can execute code that a checkpoint names, and {checkpoint.path} is one",
                remedy="If this run is your own, or you trust who made it, add --allow-code.",
            )
        with checkpoint.readable():
            state = TrainerState.load_from_json(str(checkpoint.path / ENGINE / TRAINER_STATE_NAME))
            if state.global_step != checkpoint.step * self.updates:
                raise ValueError(f"{ENGINE}/{TRAINER_STATE_NAME} is that of update {state.global_step}")

    @property
    def _engine_reads(self) -> bool:
        """Whether the weights are in pieces, which only the engine that made them can read."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    def _load_from_checkpoint(self, folder: str, model: Any = None) -> None:
        if self._engine_reads:
            super()._load_from_checkpoint(folder, model)
            return
        assert self.checkpoint is not None
        # TRL would load whatever models and adapters it finds in its folder.
        restore_adapter(self.accelerator.unwrap_model(self.model), self.checkpoint.path)

    def _load_optimizer_and_scheduler(self, folder: str | None) -> None:
        with self.checkpoint.readable() if self.checkpoint else nullcontext():
            super()._load_optimizer_and_scheduler(folder)

    def _save_rng_state(self, folder: str) -> None:
        """Each rollout seeds its own."""

    def _load_rng_state(self, folder: str | None) -> None:
        """There is none."""

    def _load_scaler(self, folder: str | None) -> None:
        """Only float16 has one, which is refused."""

    def _enter(self, phase: str | None) -> None:
        if self.recorder is not None:
            self.recorder.clock.enter(phase)

    def _tokenize_prompts(self, prompts: Sequence[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [list(self._input_ids[prompt]) for prompt in prompts], None, {}

    def _generate(self, prompts: Any) -> Any:
        self._enter("rollout")
        # A resumed run draws what an uninterrupted one draws, and each process something else.
        seed = derive_seed(self.recipe.seed, "rollout", self.step, self.accelerator.process_index)
        set_seed(seed % 2**32)
        return super()._generate(prompts)

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, ids: Any) -> Tensor:
        self._enter("reward")
        self._completions = (completions, ids)
        return super()._calculate_rewards(inputs, prompts, completions, ids)

    def gathered_scores(
        self, inputs: Sequence[Mapping[str, Any]], rewards_N_F: Tensor
    ) -> tuple[list[Score], list[str]]:
        """The same, with every part of each reward; and what the records need to know of the completions."""
        rows_N = gather_object(
            [
                (row[INDEX], text, len(ids), ids[-1] in self.eos_token_ids, score)
                for row, text, ids, score in zip(inputs, *self._completions, self.reward.scores, strict=True)
            ]
        )
        indices_N, self._texts_N, self._lengths_N, self._finished_N, scores_N = zip(*rows_N, strict=True)
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

    def _compute_loss(self, model: Any, inputs: Mapping[str, Any]) -> Tensor:
        self._trained.append(inputs["completion_mask"].sum())
        return super()._compute_loss(model, inputs)  # type: ignore[no-any-return]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """With means over the tokens of an update; TRL's are means over those of its micro-batches. None if
        no completion has a reward.
        """
        if self._trained:
            counts = self.accelerator.reduce(torch.stack(self._trained), reduction="sum").tolist()
            self._trained.clear()
            of_update = self._metrics["train"]
            for name in of_update.keys() & {"entropy", *METRICS.values()}:
                total = sum(value * count for value, count in zip(of_update[name], counts, strict=True))
                of_update[name] = [total / sum(counts) if any(counts) else math.nan]
        super().log(logs, start_time)

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

    def save_finished_step(self) -> None:
        """Save the last finished step after a reward has failed, unless it is saved. Every process calls it.

        Until its rewards are known a step changes nothing that is saved, except for TRL's count of tokens.
        """
        if self.unsaved is not None:
            self.state.num_input_tokens_seen = self.unsaved
            self._save_checkpoint(self.model, None)

    def _get_output_dir(self, trial: Any) -> str:
        """TRL saves beside the run's checkpoints, under a name that is removed if it stays unfinished."""
        return str(self.run.checkpoints / f".step-{self.state.global_step // self.updates:06d}.trl.tmp")

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        # Engines that shard the weights write in all processes.
        self.accelerator.wait_for_everyone()
        if self.recorder is not None:
            place = Path(self._get_output_dir(trial))
            saved = place / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            # A pickle that nothing reads again.
            (saved / "training_args.bin").unlink(missing_ok=True)
            self.recorder.save(saved, self.adapter_in(saved))
            place.rmdir()

    def adapter_in(self, saved: Path) -> Adapter:
        """The adapter of a checkpoint, TRL's or the run's."""
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


class _Schedule(LambdaLR):
    """Goes on with its own rates: those of its state are of the steps that the run had when it was saved."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        factors = [factor(self.last_epoch) for factor in self.lr_lambdas]
        self._last_lr = [rate * factor for rate, factor in zip(self.base_lrs, factors, strict=True)]
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate


def _trainable(model: Any) -> list[tuple[str, Tensor]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]
