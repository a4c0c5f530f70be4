"""Writes adapters in PEFT's format: those of checkpoints, and a run's finished one with its model card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgrpo_cli import __version__
from pgrpo_cli.errors import CheckpointError

from .checksums import CHECKSUMS, damage, write_checksums
from .files import aside, atomic_write, explained, sync_directory, sync_tree, write_json
from .run import RunDirectory

if TYPE_CHECKING:
    from pgrpo_cli.algo.history import RewardHistory
    from pgrpo_cli.model.policy import Policy
    from pgrpo_cli.recipe.schema import Recipe

ADAPTER_BEING_WRITTEN = ".adapter.tmp"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
_ROWS = 100


def save_adapter(policy: Policy, folder: Path) -> None:
    """Save the adapter in PEFT's format, without the model card that PEFT writes."""
    save_adapter_of(policy.model, folder)


def save_adapter_of(model: Any, folder: Path) -> None:
    """The same for a PEFT model that is no policy's."""
    # By default PEFT asks the hub whether the vocabulary was resized. This adapter never contains embeddings.
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    _sort_config(folder / "adapter_config.json")
    for file in folder.glob("*.safetensors"):
        # safetensors makes its files readable by their owner only.
        shutil.copymode(folder / "adapter_config.json", file)


def _sort_config(path: Path) -> None:
    """Sort the sets in the configuration, since PEFT writes them in another order in each process."""
    config = json.loads(path.read_text(encoding="utf-8"))
    unordered = ("target_modules", "exclude_modules", "modules_to_save")
    ordered = {key: sorted(config[key]) for key in unordered if isinstance(config.get(key), list)}
    write_json(path, {**config, **ordered})


def finish_adapter(
    run: RunDirectory, policy: Policy, model_card: str, *, chat_template: str | None = None
) -> None:
    """Write the finished adapter, its checksums and its model card to `adapter/`, with one rename at the end.

    `chat_template`: a chat template to save with the adapter, if it is not the base model's own.
    """
    temporary = run.path / ADAPTER_BEING_WRITTEN
    with explained(str(run.adapter)):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            save_adapter(policy, temporary)
            if chat_template is not None:
                atomic_write(temporary / "chat_template.jinja", chat_template)
            write_checksums(temporary)
            atomic_write(temporary / "README.md", model_card)
            sync_tree(temporary)
            if run.adapter.exists():
                aside(run.adapter, "replaced")
            temporary.rename(run.adapter)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        sync_directory(run.path)


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


def model_card(recipe: Recipe, history: RewardHistory) -> str:
    """Markdown with the front matter that hubs read: the base model, the settings of training, and the
    preference groups; if there are more than 100, those with the most rewards.
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
estimator `{recipe.advantage.estimator}` for {recipe.train.steps} steps of {recipe.train.prompts_per_step}
prompts x
{recipe.rollout.num_generations} completions (P-GRPO: arXiv 2603.10009).

Rewards seen in training, by preference group{which}:

| preference group | prompts | completions | mean reward | standard deviation |
| --- | ---: | ---: | ---: | ---: |
{rows}
"""
