"""A run directory: its paths, which recipe it belongs to, and who may write to it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from pgrpo_cli.data.prepared import recover
from pgrpo_cli.data.strict_json import read_json
from pgrpo_cli.errors import RunError
from pgrpo_cli.recipe.load import differing_keys, dump_resolved, load_resolved
from pgrpo_cli.recipe.schema import Recipe

from .files import atomic_write, explained, write_json
from .ownership import LOCK, examine, is_run, take


@dataclass(frozen=True)
class RunDirectory:
    """The places of a run's files below `path`. `lock`: the descriptor of its lock, if it is held here."""

    path: Path
    lock: int | None = field(default=None, compare=False)

    def require_lock(self) -> None:
        """Raise RunError if `path` no longer leads to the directory that this process has locked.

        A lock is on a file, whatever its path becomes: another process may write to a new directory there.
        """
        if self.lock is None:
            return
        with suppress(FileNotFoundError, NotADirectoryError):
            if os.path.samestat(os.fstat(self.lock), os.stat(self.path / LOCK)):
                return
        raise RunError(
            f"{self.path} is no longer the directory that this command has locked: it was moved, removed or "
            "replaced meanwhile; nothing more is written there",
            remedy="If it was moved, run the command again with its new place: it continues from the last "
            "checkpoint.",
        )

    @property
    def recipe_path(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.yaml"

    @property
    def data(self) -> Path:
        """Prepared prompts and their manifest."""
        return self.path / "data"

    @property
    def checkpoints(self) -> Path:
        """One folder per checkpoint."""
        return self.path / "checkpoints"

    @property
    def history_path(self) -> Path:
        """Every scored completion, and the live statistics."""
        return self.path / "history.sqlite"

    @property
    def adapter(self) -> Path:
        """The finished adapter; present once the run is done."""
        return self.path / "adapter"

    @property
    def metrics_path(self) -> Path:
        """One line of JSON per step."""
        return self.path / "metrics.jsonl"

    @property
    def paths_path(self) -> Path:
        """How the run computes on its machine."""
        return self.path / "paths.json"

    @property
    def findings_path(self) -> Path:
        """The findings that were reported during training."""
        return self.path / "findings.json"

    @property
    def fingerprint_path(self) -> Path:
        """What the run depends on besides its recipe."""
        return self.path / "fingerprint.json"

    @property
    def eval_dir(self) -> Path:
        """Evaluation results."""
        return self.path / "eval"

    @property
    def report_path(self) -> Path:
        """The page about this run."""
        return self.path / "report.html"

    @property
    def started(self) -> bool:
        """Whether something has been trained that is kept, so that the recipe is no longer free to change."""
        # Those that were set aside, too; not what a kill left of a first one that was being written.
        return self.finished or any(self.checkpoints.glob("step-[0-9]*"))

    @property
    def finished(self) -> bool:
        """Whether the last step is done and the adapter is in its place."""
        return (self.adapter / "adapter_config.json").is_file()

    @property
    def recipe_dir(self) -> Path:
        """Where the recipe's relative paths start: the folder of the file that the run was made from."""
        origin = self.path / "origin.json"
        try:
            found = read_json(origin)["recipe_dir"]
            if isinstance(found, str) and "\0" not in found:
                return Path(found)
        except FileNotFoundError:
            return self.path
        except (ValueError, KeyError, TypeError):
            pass
        raise RunError(
            f"{origin} is damaged: it does not say where the recipe's relative paths start",
            remedy="Give the recipe itself with --run-dir, whose folder is that place. Or remove the file: "
            "they start at the run's directory then.",
        )

    def recipe(self) -> Recipe:
        """The recipe that the run belongs to. Raises RunError if there is none."""
        if not self.recipe_path.is_file():
            raise RunError(
                f"{self.path} is not a run: it has no recipe.yaml",
                remedy="Name a directory that `pgrpo prepare` or `pgrpo train` made.",
            )
        return load_resolved(self.recipe_path)


def run_at(path: Path) -> RunDirectory:
    """The run in `path`, to look at. Raises RunError where there is none, or a link in it."""
    examine(path)
    return RunDirectory(path)


def run_if_any(path: Path) -> RunDirectory | None:
    """The run in `path`, to look at; None where there is none yet. Raises RunError for a link in it."""
    return run_at(path) if path.is_dir() and is_run(path) else None


def next_free(path: Path) -> Path:
    """`path`, or the first of path-2, path-3, ... that does not exist."""
    number, candidate = 1, path
    # `.` has no name of its own.
    named = path if path.name not in ("", "..") else path.resolve()
    while candidate.exists():
        number += 1
        candidate = named.with_name(f"{named.name}-{number}")
    return candidate


def claim(run: RunDirectory, recipe: Recipe, recipe_dir: Path) -> None:
    """Write the resolved recipe, and where it came from, into the run; or make sure that it is the same.

    Before training has begun the recipe may be replaced; afterwards a different one is refused (RunError).
    A directory that is not a run's is refused as well.
    """
    # Links are refused before anything below the directory is looked at.
    if is_run(run.path) or run.started:
        examine(run.path)
    if run.started:
        differing = differing_keys(run.recipe(), recipe)
        if differing:
            lines = "\n".join(
                f"  {key}: {ours!r} in the run, {theirs!r} in the recipe" for key, ours, theirs in differing
            )
            raise RunError(
                f"{run.path} was made by a different recipe; these keys differ:\n{lines}",
                remedy="Undo the change to continue the run, or start anew: --fresh or another --run-dir.",
            )
        return
    take(run.path)
    recover(run.path)
    with explained(str(run.recipe_path)):
        atomic_write(run.recipe_path, dump_resolved(recipe))
        write_json(run.path / "origin.json", {"recipe_dir": str(recipe_dir.resolve())})


@contextmanager
def locked(
    run: RunDirectory, on_message: Callable[[str], object] = lambda text: None
) -> Iterator[RunDirectory]:
    """Make the directory and hold it for writing; the lock dies with the process. Yields the run with it.

    On a file system without locks, which `on_message` hears of, another process is not kept out.

    Raises RunError if another process holds it, or it is not a run's, PathError if it cannot be a folder.
    """
    take(run.path)
    with explained(str(run.path)):
        # Neither followed nor emptied, whatever it is.
        descriptor = os.open(run.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    with os.fdopen(descriptor, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"{run.path} is being prepared or trained by another process",
                remedy="Wait for it or stop it; `pgrpo groups` may look at a running run.",
            ) from error
        except OSError as error:
            on_message(
                f"warning: {run.path} cannot be locked ({error.strerror}): see to it that no other process "
                "prepares or trains it meanwhile"
            )
        yield replace(run, lock=file.fileno())
