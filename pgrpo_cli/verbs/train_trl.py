"""The part of `pgrpo train` that is TRL's: the same preparations, shared by the processes of a launcher."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
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
from pgrpo_cli.rewards.scoring import Scorer
from pgrpo_cli.state.checkpoint import Checkpoint
from pgrpo_cli.state.paths import write_paths
from pgrpo_cli.state.run import RunDirectory

from .callbacks import Callbacks
from .diagnosing import DiagnosingObserver
from .training_call import TrainingCall


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
    return joined(device, recipe.engine)


def train_together(call: TrainingCall, world: World) -> None:
    """Train the run on TRL. Every process calls it; the first one prepares, writes and reports."""
    from pgrpo_cli.engines.trl.rewards import RecipeReward
    from pgrpo_cli.engines.trl.run import build_trainer, device_of_process, train_on_trl

    call = replace(call, device=device_of_process(call.device))
    if call.recipe.model.compute_dtype == "auto":
        dtype = dtype_name(compute_dtype(call.recipe.model, call.device))
        call = replace(call, recipe=with_value(call.recipe, "model", "compute_dtype", dtype))
    run, recipe, callbacks = call.run, call.recipe, call.callbacks
    callbacks.on_note(f"{describe(call.device)} Engine: TRL, {world.size} process{'es' * (world.size > 1)}.")
    found: dict[str, Any] = {}

    def begin() -> Checkpoint | None:
        # A judge's cache is made once, by the first process.
        found["rewards"], beginning = call.rewards(), call.begin()
        found["trackers"] = beginning.trackers
        return beginning.checkpoint

    checkpoint = world.first(begin)
    rewards = found["rewards"] if world.leads else call.rewards()
    prompts = load_prepared(run.path, "train")
    scorer = Scorer(rewards)
    trainer = build_trainer(
        run, recipe, load_tokenizer(recipe.model, call.recipe_dir), prompts,
        RecipeReward(scorer, rewards.weights, prompts), world,
        recipe_dir=call.recipe_dir, device=call.device, checkpoint=checkpoint,
        stop_requested=callbacks.stop_requested,
    )  # fmt: skip

    def settle() -> None:
        call.settle(checkpoint)
        if checkpoint is None:
            write_paths(run, {}, device=call.device.type, compute_dtype=recipe.model.compute_dtype)
        call.go_on(checkpoint)

    world.first(settle)
    done = checkpoint.step if checkpoint else 0
    with call.reporting(rewards), callbacks.training(run, steps=recipe.train.steps, done=done) as observer:
        train_on_trl(
            trainer, world, scorer,
            observer=DiagnosingObserver(observer, run, recipe) if world.leads else observer,
            trackers=found.get("trackers", ()), allow_code=call.allow_code,
        )  # fmt: skip


def callbacks_of(callbacks: Callbacks) -> Callbacks:
    """Those of this process: only the first one speaks."""
    return callbacks if rank_of_process() == 0 else Follower(callbacks)
