"""`pgrpo train`: train a recipe's adapter, or resume a run. The loop is in pgrpo_cli/training.py."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from pgrpo_cli.data.prepared import load_prepared
from pgrpo_cli.eval.sampling import held_out_curve
from pgrpo_cli.model.load.from_recipe import load_policy
from pgrpo_cli.model.load.precision import device_for
from pgrpo_cli.model.memory.budgets import with_budgets
from pgrpo_cli.model.memory.planner import paths_with_budgets
from pgrpo_cli.model.nf4 import unquantized
from pgrpo_cli.model.policy import Paths, dtype_name
from pgrpo_cli.model.update.determinism import prepare_determinism
from pgrpo_cli.pretrained.device import describe
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.state.adapter import finished_adapter
from pgrpo_cli.state.extend import Extension, extension_of, has_other_steps
from pgrpo_cli.state.paths import as_begun, read_paths, write_paths
from pgrpo_cli.state.run import RunDirectory, claim, locked, next_free, run_if_any
from pgrpo_cli.training import train_policy

from .callbacks import Callbacks
from .diagnosing import DiagnosingObserver
from .launch import idle_sentence, train_words
from .source import RecipeOrRun, StrPath, resolve
from .train_trl import callbacks_of, train_together, world_of
from .training_call import TrainingCall


@dataclass(frozen=True)
class TrainedRun:
    """A run whose last step is done. `was_finished`: it was before, and nothing has been trained."""

    path: Path
    adapter: Path
    steps: int
    was_finished: bool = False


def train(
    source: RecipeOrRun,
    *,
    run_dir: StrPath | None = None,
    overrides: Sequence[str] = (),
    fresh: bool = False,
    accept_changes: bool = False,
    allow_code: bool = False,
    force: bool = False,
    allowed_hosts: Collection[str] = (),
    device: str | None = None,
    callbacks: Callbacks | None = None,
) -> TrainedRun:
    """Train the adapter of a recipe, preparing its data first, or resume a run that was interrupted.

    `run_dir`: where the run lands, by default `runs/<recipe name>`; `fresh` takes the next free name.
    `overrides`: KEY=VALUE for keys of the recipe; with more `train.steps` a finished run continues.
    `accept_changes` resumes although data, model or a reward's file have changed. `allow_code` permits code
    that the recipe names to run, `allowed_hosts` are those that rewards may send completions to. `force`
    trains on data in which most prompts do not tell who asks. `device`: such as `cpu` or `cuda:1`, whatever
    the recipe says. Raises PgrpoError, which says what was found and what to do: Interrupted where
    `callbacks` asked for a stop.
    """
    callbacks = callbacks_of(callbacks or Callbacks())
    run, recipe, recipe_dir = resolve(source, run_dir, overrides, callbacks.on_message)
    world = world_of(recipe, device, allowed_hosts)
    with ExitStack() as stack:
        # The others of a launcher's processes wait for the first, which alone writes to the run.
        opened = world.first(partial(_open, stack, run, recipe, recipe_dir, fresh, callbacks))
        # The others write nothing, and hold no lock.
        run = opened.run if world.leads else RunDirectory(opened.run.path)
        finished = TrainedRun(run.path, run.adapter, recipe.train.steps)
        if opened.was_finished:
            return replace(finished, was_finished=True)
        callbacks.on_run(run, recipe)
        recipe = as_begun(run, recipe)
        # Before CUDA starts, which it does when a device is chosen.
        prepare_determinism(recipe.train)
        chosen = device_for(recipe, device)
        if isinstance(source, str | os.PathLike) and chosen.type == "cuda":
            words = train_words(
                Path(source), run, recipe, overrides,
                allow_code=allow_code, force=force, allowed_hosts=allowed_hosts,
            )  # fmt: skip
            if sentence := idle_sentence(torch.cuda.device_count(), words, recipe):
                callbacks.on_note(sentence)
        call = TrainingCall(
            run, recipe, recipe_dir, opened.extension,
            accept_changes=accept_changes, allow_code=allow_code, force=force,
            allowed_hosts=allowed_hosts, device=chosen, callbacks=callbacks,
        )  # fmt: skip
        if recipe.engine.type == "trl":
            train_together(call, world)
        else:
            _train(call)
    return finished


@dataclass(frozen=True)
class _Opened:
    """A run that is to be trained, and is locked for that; or one that is finished."""

    run: RunDirectory
    extension: Extension | None = None
    was_finished: bool = False


def _open(
    held: ExitStack, run: RunDirectory, recipe: Recipe, recipe_dir: Path, fresh: bool, callbacks: Callbacks
) -> _Opened:
    """Claim the run for the recipe, and hold it as long as `held`. Raises RunError or CheckpointError."""
    if fresh:
        run = RunDirectory(next_free(run.path))
    # Refuses links in a run before anything below it is looked at.
    run_if_any(run.path)
    if run.finished and not has_other_steps(run, recipe):
        claim(run, recipe, recipe_dir)
        for problem in finished_adapter(run):
            callbacks.on_message(f"warning: {problem}")
        return _Opened(run, was_finished=True)
    run = held.enter_context(locked(run, callbacks.on_message))
    extension = extension_of(run, recipe)
    if extension is None:
        claim(run, recipe, recipe_dir)
    return _Opened(run, extension)


def _train(call: TrainingCall) -> None:
    """Load what the run is made of, from its last checkpoint if it has one, and train."""
    run, recipe, callbacks = call.run, call.recipe, call.callbacks
    callbacks.on_note(describe(call.device))
    rewards = call.rewards()
    beginning = call.begin()
    checkpoint = beginning.checkpoint
    prompts = load_prepared(run.path, "train")
    paths = Paths.from_record(read_paths(run, call.device.type)) if checkpoint else None
    policy = load_policy(
        recipe,
        recipe_dir=call.recipe_dir,
        device=call.device,
        adapter=checkpoint.path if checkpoint else None,
        tokenizer=beginning.tokenizer,
        paths=paths,
    )
    call.settle(checkpoint)
    if paths is None or paths.tokens_per_batch is None:
        policy = replace(policy, paths=paths_with_budgets(policy, recipe, call.recipe_dir, prompts))
        measured = policy.paths.as_record()
        write_paths(run, measured, device=call.device.type, compute_dtype=dtype_name(policy.dtype))
    recipe = with_budgets(recipe, policy.paths.tokens_per_batch, policy.paths.tokens_per_micro_batch)
    if left := unquantized(policy.model.get_base_model()):
        callbacks.on_message(f"warning: {left}")
    if policy.paths.reason:
        callbacks.on_message(f"this model takes a slower path: {policy.paths.reason}")
    call.go_on(checkpoint)
    done = checkpoint.step if checkpoint else 0
    with call.reporting(rewards), callbacks.training(run, steps=recipe.train.steps, done=done) as observer:
        train_policy(
            run, recipe, policy, prompts, rewards,
            checkpoint=checkpoint, observer=DiagnosingObserver(observer, run, recipe),
            stop_requested=callbacks.stop_requested, trackers=beginning.trackers,
            curve=held_out_curve(run, recipe),
        )  # fmt: skip
