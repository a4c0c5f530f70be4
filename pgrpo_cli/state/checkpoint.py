"""Checkpoints, from which a run resumes.

    checkpoints/step-000040/adapter_model.safetensors, adapter_config.json: as PEFT loads them
                            optimizer.safetensors       optimizer state by parameter name
                            history.json                the kind of the reward history
                            history.safetensors         its preference groups and their numbers
                            part_history.*              the same of each part of the rewards, if kept
                            trainer.json                step, versions, in float16 the scale of the loss
                            trl/                        with `engine.type: trl`: TRL's own checkpoint, which
                                                        has the state of the optimizer
                            checksums.json              SHA-256 of the others

A checkpoint is written under a temporary name and then renamed, so a checkpoint with its final name is
complete. While it is written or deleted, its name begins with a dot.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

from safetensors import SafetensorError

from pgrpo_cli import __version__
from pgrpo_cli.data.strict_json import read_json
from pgrpo_cli.errors import CheckpointError, PgrpoError, RewardError, RunError

from .adapter import ADAPTER_BEING_WRITTEN, ADAPTER_FILES, Adapter, save_adapter
from .checksums import ENGINE, OURS, damage, hold, unheld, write_checksums
from .files import aside, explained, put_in_place, sync_directory, sync_tree, write_json
from .history_files import load_history, save_history
from .run import RunDirectory

_NAME = re.compile(r"step-[0-9]+")
_NEEDED = (*ADAPTER_FILES, "history.json", "history.safetensors", "optimizer.safetensors", "trainer.json")


@dataclass(frozen=True)
class TrainingState:
    """What a run resumes from, in tensors and plain values.

    `optimizer`: what the optimizer stores, tensors and numbers, by `parameter name/field`. `loss_scale`: None
    if the loss is not scaled. `histories`: the `state_dict` of each reward history by its name, `history`,
    and `part_history` if the run normalises each part of its rewards by itself. `engine_files`: a folder with
    what another engine resumes from, on the same file system; it is moved into the checkpoint.
    """

    adapter: Adapter
    optimizer: Mapping[str, Any]
    loss_scale: float | None
    histories: Mapping[str, Mapping[str, Any]]
    engine_files: Path | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose checksums are right. While `holder` is open, training does not delete it."""

    path: Path
    step: int
    holder: BinaryIO | None = field(default=None, compare=False)

    @contextmanager
    def readable(self) -> Iterator[None]:
        """Turn errors while its contents are read, although the checksums are right, into CheckpointError."""
        remedy = "Move that folder away and run the command again: it resumes from the previous one."
        try:
            yield
        except PgrpoError:
            raise
        except UnpicklingError as error:
            # torch explains at length how such a file could be loaded all the same.
            raise CheckpointError(
                f"checkpoint {self.path} contains a pickle with code in it, or a damaged one; nothing of it "
                "is executed",
                remedy=remedy,
            ) from error
        except (
            OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, RuntimeError,
            SafetensorError,
        ) as error:  # fmt: skip
            raise CheckpointError(
                f"checkpoint {self.path} cannot be resumed from: {type(error).__name__}: {error}",
                remedy=remedy,
            ) from error

    def history_state(self, name: str = "history") -> dict[str, Any]:
        """The `state_dict` of the reward history of that name."""
        return load_history(self.path, name)

    def optimizer_state(self) -> dict[str, Any]:
        """What the optimizer stored, by `parameter name/field`."""
        from safetensors.torch import load_file

        state: dict[str, Any] = dict(load_file(self.path / "optimizer.safetensors"))
        for name, fields in self._trainer()["optimizer_scalars"].items():
            state.update({f"{name}/{field}": value for field, value in fields.items()})
        return state

    def loss_scale(self) -> object:
        """The factor of the loss, unchecked; None if there is none."""
        return self._trainer().get("loss_scale")

    def _trainer(self) -> dict[str, Any]:
        return read_json(self.path / "trainer.json")  # type: ignore[no-any-return]


def save_checkpoint(
    run: RunDirectory, step: int, state: TrainingState, *, keep: int, spared: Collection[int | None] = ()
) -> Path:
    """Write a checkpoint and delete all but the newest `keep` and those of the steps `spared`. Raises
    CheckpointError if writing fails, RunError if the run's lock is lost.
    """
    run.require_lock()
    final = run.checkpoints / f"step-{step:06d}"
    temporary = run.checkpoints / f".step-{step:06d}.tmp"
    with explained(f"checkpoint {final}"):
        shutil.rmtree(temporary, ignore_errors=True)
        run.checkpoints.mkdir(exist_ok=True)
        temporary.mkdir()
        try:
            _write(temporary, step, state)
            put_in_place(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        sync_directory(run.checkpoints)
    _drop_old(run, keep, spared)
    return final


@dataclass
class Saver:
    """Writes the checkpoints of a run; `state` returns what is to be saved.

    If a reward fails inside its `with` block, for instance because a judge is down, it also saves the last
    finished step. This is possible because a step changes none of the saved state before its rewards are
    known.

    `done` is the last finished step, `saved` the last one with a checkpoint; `keep` checkpoints are kept, and
    those of the steps that `spared` returns.
    """

    run: RunDirectory
    state: Callable[[], TrainingState]
    keep: int
    saved: int
    done: int = 0
    spared: Callable[[], Collection[int | None]] = tuple

    def save(self, step: int) -> None:
        """Write the checkpoint of a finished step. Raises CheckpointError if writing fails."""
        save_checkpoint(self.run, step, self.state(), keep=self.keep, spared=self.spared())
        self.saved = step

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, RewardError) and self.done > self.saved:
            self.save(self.done)


def rewind_checkpoints(
    run: RunDirectory, step: int, *, keep: int, spared: Collection[int | None] = ()
) -> None:
    """Keep the newest `keep` checkpoints up to `step`, and those of the steps `spared`. Later ones are
    damaged and are renamed.

    Also deletes what a killed process has left half written or half deleted.
    """
    with explained(str(run.checkpoints)):
        for leftover in (
            *run.checkpoints.glob(".step-*.tmp"),
            *run.checkpoints.glob(".step-*.old"),
            run.path / ADAPTER_BEING_WRITTEN,
        ):
            shutil.rmtree(leftover, ignore_errors=True)
        for path in _by_step(run):
            if _step_of(path) > step:
                aside(path, "damaged")
    _drop_old(run, keep, spared)


def _drop_old(run: RunDirectory, keep: int, spared: Collection[int | None]) -> None:
    """Delete all checkpoints except the newest `keep`, those of the steps `spared`, those that are locked for
    reading, and those that contain files which a run does not write.

    Each is renamed before it is deleted, so that a kill does not leave an incomplete one under its name.
    """
    for path in _by_step(run)[:-keep]:
        if _step_of(path) in spared:
            continue
        if any(entry.name != ENGINE and not OURS.fullmatch(entry.name) for entry in path.iterdir()):
            continue
        with unheld(path) as free:
            if not free:
                continue
            hidden = path.with_name(f".{path.name}.old")
            path.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def _write(folder: Path, step: int, state: TrainingState) -> None:
    import torch
    from safetensors.torch import save_file

    save_adapter(state.adapter, folder)
    tensors: dict[str, torch.Tensor] = {}
    scalars: dict[str, dict[str, Any]] = {}
    for key, value in state.optimizer.items():
        if isinstance(value, torch.Tensor):
            tensors[key] = value
        else:
            name, _, field = key.rpartition("/")
            scalars.setdefault(name, {})[field] = value
    save_file(tensors, folder / "optimizer.safetensors")
    for name, history in state.histories.items():
        save_history(history, folder, name)
    trainer = {"version": 1, "step": step, "pgrpo_version": __version__, "optimizer_scalars": scalars}
    if state.loss_scale is not None:
        trainer["loss_scale"] = state.loss_scale
    write_json(folder / "trainer.json", trainer)
    if state.engine_files is not None:
        state.engine_files.rename(folder / ENGINE)
    write_checksums(folder)
    sync_tree(folder)


def latest_checkpoint(run: RunDirectory, *, held: bool = False) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is not damaged, and a message about each newer one that is.

    With `held` it is locked, so that a running training does not delete it. Raises CheckpointError if all
    checkpoints are damaged.
    """
    latest = None
    while latest is None:
        latest = _latest(run, held)
    return latest


def _latest(run: RunDirectory, held: bool) -> tuple[Checkpoint | None, list[str]] | None:
    """The same; None if one was deleted while it was read. The training that deleted it has written newer
    ones.
    """
    problems: list[str] = []
    for path in reversed(_by_step(run)):
        holder = hold(path) if held else None
        problem = _damage(path)
        if problem is None:
            return Checkpoint(path, _step_of(path), holder), problems
        if not path.exists():
            return None
        problems.append(f"checkpoint {path} is damaged ({problem})")
    if problems:
        raise CheckpointError(
            "no usable checkpoint: " + "; ".join(problems),
            remedy="Start over with --fresh; nothing of this run is deleted.",
        )
    return None, []


def checkpoint_at(run: RunDirectory, step: int) -> Checkpoint:
    """The checkpoint after `step`, locked for reading.

    Raises RunError if it does not exist, CheckpointError if it is damaged.
    """
    paths = {_step_of(path): path for path in _by_step(run)}
    if step not in paths:
        there = ", ".join(map(str, paths)) or "none"
        raise RunError(
            f"{run.path} has no checkpoint after step {step}; it has: {there}",
            remedy="Choose one of those; train.keep_checkpoints sets how many a run keeps.",
        )
    holder = hold(paths[step])
    problem = _damage(paths[step])
    if problem is not None and not paths[step].exists():
        return checkpoint_at(run, step)
    if problem is not None:
        raise CheckpointError(
            f"checkpoint {paths[step]} is damaged ({problem})", remedy="Choose another one."
        )
    return Checkpoint(paths[step], step, holder)


def _damage(path: Path) -> str | None:
    """What is wrong with a checkpoint; None if nothing is."""
    problem = damage(path, _NEEDED)
    if problem is not None:
        return problem
    try:
        step = read_json(path / "trainer.json")["step"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        return f"trainer.json is unreadable: {error!r}"
    return None if step == _step_of(path) else f"it is that of step {step}"


def checkpoint_steps(run: RunDirectory) -> set[int]:
    """The steps that have a checkpoint, whole or not."""
    return set(map(_step_of, _by_step(run)))


def _by_step(run: RunDirectory) -> list[Path]:
    """Folders of checkpoints, whole or not, in order of their steps."""
    if not run.checkpoints.is_dir():
        return []
    paths = (path for path in run.checkpoints.iterdir() if _NAME.fullmatch(path.name) and path.is_dir())
    return sorted(paths, key=_step_of)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))
