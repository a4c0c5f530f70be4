"""Training a run on TRL, from a checkpoint or from the start, in one process or in several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import GenerationConfig
from trl import GRPOConfig

from pgrpo_cli.data.batches import Batches
from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.errors import Interrupted, RecipeError, RewardError
from pgrpo_cli.model.load.adapter import attach_adapter
from pgrpo_cli.model.load.base_model import fit_tokenizer, load_base_model
from pgrpo_cli.model.load.frozen import freeze
from pgrpo_cli.model.nf4 import keep_differentiable
from pgrpo_cli.pretrained.device import set_up
from pgrpo_cli.recipe.engine import TrlEngine
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.rewards.scoring import Scorer
from pgrpo_cli.seeding import derive_seed
from pgrpo_cli.state.adapter import finish_adapter, model_card
from pgrpo_cli.state.checkpoint import ENGINE, Checkpoint, checkpoint_at
from pgrpo_cli.state.run import RunDirectory
from pgrpo_cli.state.runlog import Tracker
from pgrpo_cli.training import Observer

from ..world import World
from .arguments import grpo_arguments
from .recording import Recorder
from .rewards import INDEX, RecipeReward
from .run_trainer import RunTrainer


def joined(device: torch.device, engine: TrlEngine) -> World:
    """The processes that a launcher has started with this one, which can talk to each other from now on."""
    patience = timedelta(seconds=engine.args.get("ddp_timeout", GRPOConfig.ddp_timeout))
    state = PartialState(cpu=device.type == "cpu", timeout=patience)
    return World(state.process_index, state.num_processes)


def device_of_process(device: torch.device) -> torch.device:
    """The device on which this process computes: each has a GPU of its own."""
    return device if device.type == "cpu" else torch.device(PartialState().device)


def shared_out(recipe: Recipe, size: int) -> int:
    """Completions of a step that each of `size` processes has. Raises RecipeError if that is no number."""
    P, G = recipe.train.prompts_per_step, recipe.rollout.num_generations
    if P * G % size:
        raise RecipeError(
            f"the {P * G} completions of a step (train.prompts_per_step {P} x rollout.num_generations {G}) "
            f"cannot be shared out evenly to {size} processes",
            remedy="Start another number of processes: a divisor of it.",
        )
    return P * G // size


def at_once(recipe: Recipe, prompts: Sequence[PreparedPrompt], completions: int) -> int:
    """How many of the `completions` of a process go through the model together: the largest divisor that
    `train.tokens_per_micro_batch` has room for, and one at least.
    """
    longest = max(len(prompt.input_ids) for prompt in prompts) + recipe.rollout.max_completion_tokens
    room = max(1, recipe.train.micro_batch_budget // longest)
    return max(size for size in range(1, completions + 1) if completions % size == 0 and size <= room)


def build_trainer(
    run: RunDirectory,
    recipe: Recipe,
    tokenizer: Any,
    prompts: Sequence[PreparedPrompt],
    reward: RecipeReward,
    world: World,
    *,
    recipe_dir: Any,
    device: torch.device,
    checkpoint: Checkpoint | None,
    stop_requested: Callable[[], bool],
) -> RunTrainer:
    """Load the model and make the trainer. Raises RecipeError or ModelError."""
    set_up(device)
    each = shared_out(recipe, world.size)
    arguments = grpo_arguments(
        recipe,
        output_dir=str(run.checkpoints),
        on_cpu=device.type == "cpu",
        completions_per_process=each,
        completions_at_once=at_once(recipe, prompts, each),
    )
    if world.size == 1:
        # Several GPUs would otherwise share the model in a way that TRL refuses.
        arguments._n_gpu = min(arguments.n_gpu, 1)
    base = load_base_model(recipe.model, recipe_dir, device)
    # Beside its stop tokens, its own generation config could change what is sampled from.
    base.generation_config = GenerationConfig(eos_token_id=base.generation_config.eos_token_id)
    fit_tokenizer(tokenizer, base, recipe.model)
    keep_differentiable(base)
    freeze(base)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive_seed(recipe.seed, "adapter"))
        model = attach_adapter(base, recipe.adapter)
    return RunTrainer(
        run=run,
        recipe=recipe,
        prompts=prompts,
        reward=reward,
        checkpoint=checkpoint,
        stop_requested=stop_requested,
        model=model,
        args=arguments,
        train_dataset=rows_of(prompts, recipe),
        processing_class=tokenizer,
    )


def rows_of(prompts: Sequence[PreparedPrompt], recipe: Recipe) -> Dataset:
    """The prompts of every step in order: those that the native engine takes."""
    rows = Dataset.from_dict(
        {
            "prompt": [prompt.prompt for prompt in prompts],
            "preference_group": [prompt.preference_group for prompt in prompts],
            INDEX: list(range(len(prompts))),
        }
    )
    number = {id(prompt): index for index, prompt in enumerate(prompts)}
    train = recipe.train
    batches = Batches(prompts, train.prompts_per_step, recipe.seed, train.sampler)
    chosen = [prompt for step in range(1, train.steps + 1) for prompt in batches.at(step)]
    return rows.select([number[id(prompt)] for prompt in chosen])


def train_on_trl(
    trainer: RunTrainer,
    world: World,
    scorer: Scorer,
    *,
    observer: Observer,
    trackers: Sequence[Tracker] = (),
    allow_code: bool = False,
) -> None:
    """Train to the recipe's last step, and leave `adapter/` behind. Raises Interrupted after a stop, and
    RewardError after a reward that failed; the steps before it are saved.

    Every process calls it; the first one writes the run's files and tells the observer. `allow_code` permits
    engines that execute what a checkpoint names.
    """
    run, recipe, checkpoint = trainer.run, trainer.recipe, trainer.checkpoint
    done = checkpoint.step if checkpoint else 0
    with ExitStack() as open_files:

        def begin() -> None:
            recorder = Recorder(run, recipe, observer, trackers, trainer.histories)
            if checkpoint is not None:
                trainer.refuse_checkpoint(allow_code)
                trainer.load_histories(checkpoint.path)
            recorder.begin(done)
            trainer.recorder = open_files.enter_context(recorder)

        world.first(begin)
        open_files.enter_context(scorer)
        if done < recipe.train.steps:
            try:
                trainer.train(resume_from_checkpoint=str(checkpoint.path / ENGINE) if checkpoint else None)
            except RewardError as error:
                trainer.save_finished_step()
                world.stop(error)
    step = trainer.state.global_step // trainer.updates if done < recipe.train.steps else done
    if step < recipe.train.steps:
        world.stop(Interrupted(f"stopped after step {step} of {recipe.train.steps}; everything is saved"))
    world.first(lambda: _finish(trainer))


def _finish(trainer: RunTrainer) -> None:
    run, recipe = trainer.run, trainer.recipe
    own_template = None if recipe.model.chat_template is None else trainer.processing_class.chat_template
    card = model_card(recipe, trainer.history, step=recipe.train.steps, done=recipe.train.steps)
    saved = checkpoint_at(run, recipe.train.steps)
    finish_adapter(run, trainer.adapter_in(saved.path), card, chat_template=own_template)
