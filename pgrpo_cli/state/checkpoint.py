"""Checkpoints: the truth from which a run goes on.

    checkpoints/step-000040/adapter_model.safetensors, adapter_config.json    as PEFT loads them
                            optimizer.safetensors                             optimizer state by parameter
                            name
                            history.json                                      the reward history
                            trainer.json                                      step, versions
                            checksums.json                                    SHA-256 of the others

A checkpoint is written beside its place and renamed into it, so one that has its name is whole.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from pgrpo_cli import __version__
from pgrpo_cli.errors import CheckpointError
from pgrpo_cli.model.policy import Policy

from .files import atomic_write, explained, sync_directory, sync_tree, write_json
from .run import RunDirectory


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose checksums hold."""

    path: Path
    step: int

    def history_state(self) -> dict[str, Any]:
        """What `RewardHistory.load_state_dict` takes."""
        return json.loads((self.path / "history.json").read_text())  # type: ignore[no-any-return]

    def restore_optimizer(self, optimizer: torch.optim.Optimizer, policy: Policy) -> None:
        """Load the optimizer's state; parameters are matched by name."""
        scalars = json.loads((self.path / "trainer.json").read_text())["optimizer_scalars"]
        state: dict[int, dict[str, Any]] = {}
        index_of = {name: i for i, name in enumerate(policy.trainable)}
        for key, tensor in load_file(self.path / "optimizer.safetensors").items():
            name, _, field = key.rpartition("/")
            state.setdefault(index_of[name], {})[field] = tensor
        for name, fields in scalars.items():
            state.setdefault(index_of[name], {}).update(fields)
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save_checkpoint(
    run: RunDirectory,
    step: int,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    history_state: dict[str, Any],
    *,
    keep: int,
) -> Path:
    """Write a checkpoint and drop all but the newest `keep`. Raises CheckpointError if the disk refuses."""
    final = run.checkpoints / f"step-{step:06d}"
    temporary = run.checkpoints / f".step-{step:06d}.tmp"
    with explained(f"checkpoint {final}"):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            _write(temporary, step, policy, optimizer, history_state)
            if final.exists():
                final.rename(_aside(final))
            temporary.rename(final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        sync_directory(run.checkpoints)
    for old in _by_step(run)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def _write(
    folder: Path, step: int, policy: Policy, optimizer: torch.optim.Optimizer, history_state: dict[str, Any]
) -> None:
    save_adapter(policy, folder)
    tensors, scalars = _optimizer_state(optimizer, policy)
    save_file(tensors, folder / "optimizer.safetensors")
    write_json(folder / "history.json", history_state)
    write_json(
        folder / "trainer.json",
        {"version": 1, "step": step, "pgrpo_version": __version__, "optimizer_scalars": scalars},
    )
    sums = {file.name: _sha256(file) for file in sorted(folder.iterdir())}
    write_json(folder / "checksums.json", sums)
    sync_tree(folder)


def save_adapter(policy: Policy, folder: Path) -> None:
    """The adapter as PEFT saves it, without the model card that PEFT would write."""
    # Left to itself PEFT asks a hub whether the vocabulary was resized; this adapter never holds embeddings.
    policy.model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    # PEFT keeps module names in a set, whose order changes from process to process: equal runs, equal files.
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    write_json(path, config)


def finish_adapter(run: RunDirectory, policy: Policy, model_card: str) -> None:
    """Put the finished adapter and its model card into `adapter/`, in one rename."""
    temporary = run.path / ".adapter.tmp"
    with explained(str(run.adapter)):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            save_adapter(policy, temporary)
            atomic_write(temporary / "README.md", model_card)
            sync_tree(temporary)
            if run.adapter.exists():
                run.adapter.rename(_aside(run.adapter))
            temporary.rename(run.adapter)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        sync_directory(run.path)


def latest_checkpoint(run: RunDirectory) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and a sentence about each newer one that is not.

    Raises CheckpointError if there are checkpoints and none is whole.
    """
    problems: list[str] = []
    for path in reversed(_by_step(run)):
        problem = _damage(path)
        if problem is None:
            return Checkpoint(path, int(path.name.removeprefix("step-"))), problems
        problems.append(f"checkpoint {path} is damaged ({problem})")
    if problems:
        raise CheckpointError(
            "no usable checkpoint: " + "; ".join(problems),
            remedy="Start over with --fresh; nothing of this run is deleted.",
        )
    return None, []


def _damage(path: Path) -> str | None:
    try:
        sums = json.loads((path / "checksums.json").read_text())
        for name, expected in sums.items():
            if _sha256(path / name) != expected:
                return f"{name} has changed"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, AttributeError) as error:
        return f"checksums.json is unreadable: {error}"
    return None


def _by_step(run: RunDirectory) -> list[Path]:
    if not run.checkpoints.is_dir():
        return []
    return sorted(p for p in run.checkpoints.glob("step-*") if p.name.removeprefix("step-").isdigit())


def _aside(path: Path) -> Path:
    number = 1
    while path.with_name(f"{path.name}.replaced-{number}").exists():
        number += 1
    return path.with_name(f"{path.name}.replaced-{number}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _optimizer_state(
    optimizer: torch.optim.Optimizer, policy: Policy
) -> tuple[dict[str, torch.Tensor], dict[str, dict[str, Any]]]:
    """Tensors by `parameter name/field`, and what is not a tensor by parameter name and field."""
    names = list(policy.trainable)
    tensors: dict[str, torch.Tensor] = {}
    scalars: dict[str, dict[str, Any]] = {}
    for index, fields in optimizer.state_dict()["state"].items():
        for field, value in fields.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{names[index]}/{field}"] = value.detach().cpu().contiguous().clone()
            else:
                scalars.setdefault(names[index], {})[field] = value
    return tensors, scalars
