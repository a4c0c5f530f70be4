"""Changes the number of steps of a started run: only `train.steps` may change in its recipe."""

from __future__ import annotations

from dataclasses import dataclass

from pgrpo_cli.errors import RunError
from pgrpo_cli.recipe.load import differing_keys, dump_resolved
from pgrpo_cli.recipe.resolved import adopted
from pgrpo_cli.recipe.schema import Recipe

from .checkpoint import latest_checkpoint
from .files import aside, atomic_write, explained
from .run import RunDirectory

_STEPS, _WARMUP = "train.steps", "train.warmup_steps"


def has_other_steps(run: RunDirectory, recipe: Recipe) -> bool:
    """Whether the run was started with this recipe except for the number of steps."""
    if not run.started or not run.recipe_path.is_file():
        return False
    before = run.recipe()
    keys = {key for key, *_ in differing_keys(before, recipe)}
    # A warm-up that is longer than the run is cut to the number of steps, so it changes together with it. A
    # smaller one had never been that long.
    longest = before.train.warmup_steps == before.train.steps
    cut = longest and recipe.train.warmup_steps >= min(before.train.steps, recipe.train.steps)
    return _STEPS in keys and keys <= ({_STEPS, _WARMUP} if cut else {_STEPS})


@dataclass(frozen=True)
class Extension:
    """A run that will resume after step `done`, up to the steps of `recipe` instead of those of `before`."""

    run: RunDirectory
    before: Recipe
    recipe: Recipe
    done: int

    def apply(self) -> str:
        """Replace the recipe in the run, rename a finished adapter, and return a message about it."""
        kept = ""
        with explained(str(self.run.path)):
            if self.run.finished:
                adapter = aside(self.run.adapter, "replaced")
                kept = f"; the finished adapter stays in {adapter}"
            atomic_write(self.run.recipe_path, dump_resolved(self.recipe))
        steps = f"step {self.done} to {self.recipe.train.steps} instead of {self.before.train.steps}"
        return f"{self.run.path} continues from {steps}{kept}{self._schedule()}"

    def _schedule(self) -> str:
        """A sentence about the change of the learning rate, or nothing."""
        train, done = self.recipe.train, self.done
        if done in (0, train.steps):
            return ""
        was, now = self.before.train.learning_rate_at(done), train.learning_rate_at(done + 1)
        if self.before.train.schedule == "constant" and was == now:
            return ""
        return (
            f". The {train.schedule} schedule is that of {train.steps} steps from here on: the learning rate "
            f"was {was:.2g} in step {done} and is {now:.2g} in step {done + 1}"
        )


def extension_of(run: RunDirectory, recipe: Recipe) -> Extension | None:
    """The extension of the run by a recipe with another number of steps; None for any other recipe.

    Raises RunError if the run has done more steps already, or has no checkpoint to resume from.
    """
    if not has_other_steps(run, recipe):
        return None
    checkpoint, _ = latest_checkpoint(run)
    done = checkpoint.step if checkpoint else 0
    if run.finished and checkpoint is None:
        raise RunError(
            f"{run.path} is finished and has no checkpoint to continue from",
            remedy="Start anew with --fresh or another --run-dir.",
        )
    if recipe.train.steps < done:
        raise RunError(
            f"{run.path} has done {done} steps, and train.steps is {recipe.train.steps} now",
            remedy=f"Set train.steps to {done} or more, or start anew with --fresh.",
        )
    before = run.recipe()
    return Extension(run, before, adopted(before, recipe), done)
