"""Writes adapters in PEFT's format: those of checkpoints, and a run's finished one with its model card."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pgrpo_cli import __version__
from pgrpo_cli.data.strict_json import read_json
from pgrpo_cli.errors import CheckpointError

from .checksums import CHECKSUMS, damage, write_checksums
from .files import atomic_write, explained, put_in_place, sync_directory, sync_tree, write_json
from .run import RunDirectory

if TYPE_CHECKING:
    import torch

    from pgrpo_cli.algo.history import RewardHistory
    from pgrpo_cli.recipe.schema import Recipe
    from pgrpo_cli.recipe.training import TrainSection

ADAPTER_BEING_WRITTEN = ".adapter.tmp"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
_OF_STEP = "trainer.json"
_ROWS = 100


class Adapter(NamedTuple):
    """An adapter as PEFT saves it: its weights by name, and its configuration in values of JSON."""

    weights: Mapping[str, torch.Tensor]
    config: Mapping[str, Any]


def save_adapter(adapter: Adapter, folder: Path) -> None:
    """Write the files that PEFT loads."""
    from safetensors.torch import save_file

    config, weights = (folder / name for name in ADAPTER_FILES)
    write_json(config, adapter.config)
    save_file(dict(adapter.weights), weights, metadata={"format": "pt"})
    # safetensors makes its files readable by their owner only.
    shutil.copymode(config, weights)


def read_adapter(folder: Path) -> Adapter:
    """The adapter in the files that `save_adapter` wrote. Raises OSError or ValueError where it cannot."""
    from safetensors.torch import load_file

    config, weights = (folder / name for name in ADAPTER_FILES)
    return Adapter(load_file(weights), read_json(config))


def finish_adapter(
    run: RunDirectory,
    adapter: Adapter,
    model_card: str,
    *,
    chat_template: str | None = None,
    step: int | None = None,
) -> None:
    """Write the finished adapter, its checksums and its model card to `adapter/`, with one rename at the end.

    `chat_template`: a chat template to save with the adapter, if it is not the base model's own. `step`: the
    step that it is of, if that need not be the recipe's last one.
    """
    run.require_lock()
    temporary = run.path / ADAPTER_BEING_WRITTEN
    with explained(str(run.adapter)):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            save_adapter(adapter, temporary)
            if chat_template is not None:
                atomic_write(temporary / "chat_template.jinja", chat_template)
            if step is not None:
                write_json(temporary / _OF_STEP, {"version": 1, "step": step})
            write_checksums(temporary)
            atomic_write(temporary / "README.md", model_card)
            sync_tree(temporary)
            put_in_place(temporary, run.adapter)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        sync_directory(run.path)


def finished_step(run: RunDirectory, train: TrainSection) -> int:
    """The step that the finished adapter is of. Raises CheckpointError where its file is damaged."""
    try:
        step = read_json(run.adapter / _OF_STEP)["step"]
        if type(step) is not int or not 0 < step <= train.steps:
            raise ValueError(f"step {step!r}")
    except FileNotFoundError:
        return train.steps
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{run.adapter / _OF_STEP} is damaged: {error!r}",
            remedy="Move that folder away and run `pgrpo train` again: it resumes from the last checkpoint.",
        ) from error
    return step


def finished_adapter(run: RunDirectory) -> list[str]:
    """Compare adapter/ with its checksums. Returns a warning if the run is too old to have checksums.

    Raises CheckpointError if the adapter was changed.
    """
    if not (run.adapter / CHECKSUMS).exists():
        return [f"{run.adapter} was written by an older pgrpo, without checksums: it cannot be verified"]
    problem = damage(run.adapter, ADAPTER_FILES)
    if problem is not None:
        raise CheckpointError(
            f"the adapter {run.adapter} is damaged ({problem})",
            remedy="Move that folder away and run `pgrpo train` again: it resumes from the last checkpoint.",
        )
    return []


def model_card(recipe: Recipe, history: RewardHistory, *, step: int, done: int) -> str:
    """Markdown with the front matter that hubs read: the base model, the settings of training, and the
    preference groups; if there are more than 100, those with the most rewards. The adapter is that of `step`,
    and the history that of `done` steps.
    """
    groups = history.stats(history.most_seen(_ROWS))
    rows = "\n".join(
        f"| {name} | {s.prompts} | {s.n} | {s.mean:.3f} | {s.std:.3f} |" for name, s in groups.items()
    )
    others = len(history.preference_groups) - len(groups)
    which = f" (the {len(groups)} most seen; {others} more are not listed)" if others else ""
    return f"""---
library_name: peft
base_model: "{recipe.model.id}"
tags: [lora, p-grpo, personalization]
---

# {recipe.name}

A LoRA adapter (rank {recipe.adapter.r}) on `{recipe.model.id}`, trained by pgrpo {__version__} with the
advantage
estimator `{recipe.advantage.estimator}` for {step} steps of {recipe.train.prompts_per_step}
prompts x
{recipe.rollout.num_generations} completions (P-GRPO: arXiv 2603.10009).

Rewards seen in {done} steps of training, by preference group{which}:

| preference group | prompts | completions | mean reward | standard deviation |
| --- | ---: | ---: | ---: | ---: |
{rows}
"""
