"""The part of `pgrpo train` that is TRL's: the same preparations, shared by the processes of a launcher."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pgrpo_cli.data.prepared import load_prepared
from pgrpo_cli.engines.world import World, number_of_processes, rank_of_process
from pgrpo_cli.errors import RecipeError
from pgrpo_cli.model.load.base_model import load_tokenizer
from pgrpo_cli.model.load.precision import compute_dtype, device_for
from pgrpo_cli.model.policy import dtype_name
from pgrpo_cli.pretrained.device import describe
from pgrpo_cli.recipe.engine import TrlEngine
from pgrpo_cli.recipe.resolved import with_value
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.rewards.build import build_rewards
from pgrpo_cli.rewards.reward_sum import sentences_about
from pgrpo_cli.rewards.scoring import Scorer
from pgrpo_cli.state.checkpoint import Checkpoint, latest_checkpoint
from pgrpo_cli.state.extend import Extension
from pgrpo_cli.state.fingerprint import fingerprint_of, settle
from pgrpo_cli.state.paths import write_paths
from pgrpo_cli.state.run import RunDirectory
from pgrpo_cli.state.runlog import open_trackers

from .callbacks import Callbacks
from .diagnosing import DiagnosingObserver
from .prepare import prepare_run


class Follower(Callbacks):
    """The callbacks of a process that is not the first: it hears of nothing, and may ask for a stop."""

    def __init__(self, callbacks: Callbacks) -> None:
        self._callbacks = callbacks

    def on_message(self, text: str) -> None:
        """The first process says it."""

    def on_step(self, record: Mapping[str, Any], groups: Mapping[str, Any]) -> None:
        """The first process shows it."""

    def stop_requested(self) -> bool:
        return self._callbacks.stop_requested()

    @contextmanager
    def training(self, run: RunDirectory, *, steps: int, done: int) -> Iterator[Follower]:
        with self._callbacks.training(run, steps=steps, done=done):
            yield self


def world_of(recipe: Recipe, wish: str | None, allowed_hosts: Collection[str]) -> World:
    """The processes of the run. Raises RecipeError for what cannot run, before a model is loaded."""
    size = number_of_processes()
    if not isinstance(recipe.engine, TrlEngine):
        if size > 1:
            raise RecipeError(
                f"a launcher has started {size} processes, and engine.type is 'native', which is one process",
                remedy="Add --set engine.type=trl, or run `pgrpo train` without the launcher.",
            )
        return World()
    try:
        import trl  # noqa: F401
    except ImportError as error:
        raise RecipeError(
            f"engine.type is 'trl', and the package cannot be imported: {error}",
            remedy="pip install 'pgrpo-cli[trl]'",
        ) from error
    from pgrpo_cli.engines.trl.arguments import refuse_arguments
    from pgrpo_cli.engines.trl.run import joined, shared_out

    device = device_for(recipe, wish)
    shared_out(recipe, size)
    refuse_arguments(recipe.engine, on_cpu=device.type == "cpu", allowed_hosts=allowed_hosts)
    if recipe.model.compute_dtype == "auto" and compute_dtype(recipe.model, device) == torch.float16:
        raise RecipeError(
            "engine.type is 'trl', and this GPU computes in float16: TRL scales no loss of an adapter",
            remedy="Set model.compute_dtype to float32, or engine.type to native.",
        )
    return joined(device)


def train_together(
    world: World,
    run: RunDirectory,
    recipe: Recipe,
    recipe_dir: Path,
    extension: Extension | None,
    *,
    accept_changes: bool,
    allow_code: bool,
    force: bool,
    allowed_hosts: Collection[str],
    device: torch.device,
    callbacks: Callbacks,
) -> None:
    """Train the run on TRL. Every process calls it; the first one prepares, writes and reports."""
    from pgrpo_cli.engines.trl.run import build_trainer, device_of_process, train_on_trl

    device = device_of_process(device)
    if recipe.model.compute_dtype == "auto":
        dtype = dtype_name(compute_dtype(recipe.model, device))
        recipe = with_value(recipe, "model", "compute_dtype", dtype)
    callbacks.on_note(f"{describe(device)} Engine: TRL, {world.size} process{'es' * (world.size > 1)}.")

    def rewards_of_process() -> Any:
        return build_rewards(
            recipe.rewards, recipe_dir, allow_code,
            run_dir=run.path, allowed_hosts=allowed_hosts, device=device,
        )  # fmt: skip

    found: dict[str, Any] = {}

    def prepared() -> Checkpoint | None:
        # A judge's cache is made once, by the first process.
        found["rewards"] = rewards_of_process()
        checkpoint, problems = latest_checkpoint(run)
        for problem in problems:
            callbacks.on_message(f"warning: {problem}; falling back to the one before")
        first_step = checkpoint.step + 1 if checkpoint else 1
        found["trackers"] = open_trackers(
            recipe.log, run.path, recipe.model_dump(mode="json"), first_step=first_step
        )
        if checkpoint is None:
            report, _ = prepare_run(run, recipe, recipe_dir, allow_code=allow_code, force=force)
            callbacks.on_prepared(report)
        return checkpoint

    checkpoint = world.first(prepared)
    done = checkpoint.step if checkpoint else 0
    rewards = found["rewards"] if world.leads else rewards_of_process()
    prompts = load_prepared(run.path, "train")
    scorer = Scorer(rewards)

    from pgrpo_cli.engines.trl.rewards import RecipeReward

    trainer = build_trainer(
        run, recipe, load_tokenizer(recipe.model, recipe_dir), prompts,
        RecipeReward(scorer, rewards.weights, prompts), world,
        recipe_dir=recipe_dir, device=device, checkpoint=checkpoint,
        stop_requested=callbacks.stop_requested,
    )  # fmt: skip

    def settled() -> None:
        fingerprint = fingerprint_of(run, recipe.model, recipe.rewards, recipe_dir)
        for sentence in settle(run, fingerprint, step=done if checkpoint else None, accept=accept_changes):
            callbacks.on_message(f"warning: {sentence}")
        if checkpoint is None:
            write_paths(run, {}, device=device.type, compute_dtype=recipe.model.compute_dtype)
        else:
            callbacks.on_resumed(done)
        if extension is not None:
            callbacks.on_message(extension.apply())

    world.first(settled)
    try:
        with callbacks.training(run, steps=recipe.train.steps, done=done) as observer:
            train_on_trl(
                trainer, world, scorer,
                observer=DiagnosingObserver(observer, run, recipe) if world.leads else observer,
                trackers=found.get("trackers", ()),
            )  # fmt: skip
    finally:
        for sentence in sentences_about(rewards):
            callbacks.on_note(sentence)


def callbacks_of(callbacks: Callbacks) -> Callbacks:
    """Those of this process: only the first one speaks."""
    return callbacks if rank_of_process() == 0 else Follower(callbacks)
