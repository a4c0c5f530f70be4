"""`eval.lm_eval` in `pgrpo eval`: tasks of the LM Evaluation Harness, by the base model and the tuned one.

Tasks and their documents are loaded before anything is sampled, so that a wrong name costs nothing. They are
answered after the evaluation is on disk: what fails costs no completion, and the same command continues
there.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pgrpo_cli.errors import RecipeError
from pgrpo_cli.model.policy import Policy
from pgrpo_cli.paths import path_of
from pgrpo_cli.recipe.evaluation import LmEvalSection
from pgrpo_cli.state.results import write_result
from pgrpo_cli.stats.estimates import Resampler
from pgrpo_cli.stats.intervals import Bootstrap
from pgrpo_cli.stats.result_types import EvalResult, TaskScores, Which
from pgrpo_cli.stats.task_scores import task_scores

from .harness import answered, explained, load_tasks, package, quiet, task_model
from .sampling import EvalProgress
from .targets import EvalTarget, has_tasks

_MOST_FILES, _MOST_BYTES = 10_000, 1 << 30
"""What a folder of task files may hold. All of it is read, to know whether scores are of these files."""


@dataclass(frozen=True)
class Tasks:
    """Loaded tasks: what `lm_eval.tasks.TaskManager.load` returns, and where they are from."""

    section: LmEvalSection
    loaded: Any
    files_hash: str | None
    allow_code: bool


def tasks_to_run(
    target: EvalTarget,
    kept: EvalResult | None,
    *,
    allow_code: bool = False,
    on_note: Callable[[str], None] = lambda text: None,
) -> Tasks | None:
    """The tasks of the target's recipe; None where it names none, or `kept` holds their scores.

    Task files of the recipe's own are looked at under `allow_code` only: without it kept scores stand, also
    where the files have changed. Raises RecipeError where the package is missing, a task is unknown, runs
    code, or its files may not be read, EvalError where its documents cannot be had.
    """
    section = target.recipe.eval.lm_eval
    if section is None:
        return None
    folder = _folder(section, target.recipe_dir)
    package("lm_eval")
    found = kept.lm_eval if kept and has_tasks(target.recipe.eval, kept) else None
    same = found is not None and found.lm_eval_version == version("lm-eval")
    if folder is not None and not allow_code:
        if same:
            on_note(f"lm-eval: scores are kept; --allow-code finds out whether {folder} has changed")
            return None
        raise RecipeError(
            f"eval.lm_eval.include_path: the task files in {folder} name Python to run; "
            "code that a recipe names is not run by default",
            remedy="Read the files; if you trust them, add --allow-code.",
        )
    files_hash = None if folder is None else _files_hash(folder)
    if same and found is not None and found.files_hash == files_hash:
        return None
    on_note("lm-eval: reading its tasks")
    loaded = load_tasks(section.tasks, folder, allow_code=allow_code)
    return Tasks(section, loaded, files_hash, allow_code)


def run_tasks(
    target: EvalTarget,
    result: EvalResult,
    tasks: Tasks,
    policy: Policy,
    *,
    progress: EvalProgress = lambda which, done, total: None,
    on_note: Callable[[str], None] = lambda text: None,
) -> EvalResult:
    """The evaluation of the target with the scores of both models in the tasks, kept in its run.

    `on_note` takes sentences for the user. Raises EvalError where lm-eval fails.
    """
    section = tasks.section
    with quiet(), explained("lm-eval does not take the model", "Leave eval.lm_eval out."):
        model = task_model(
            policy,
            batch_size=section.batch_size,
            max_length=section.max_length,
            chat_template_kwargs=target.recipe.model.chat_template_kwargs,
        )

    def found(which: Which) -> Any:
        model.progress = lambda done, total: progress(f"{which} tasks", done, total)
        return answered(
            model,
            tasks.loaded,
            limit=section.limit,
            num_fewshot=section.num_fewshot,
            chat_template=section.chat_template,
            system_prompt=target.recipe.model.system_prompt,
            allow_code=tasks.allow_code,
            on_note=on_note,
        )

    with policy.base():
        base = found("base")
    tuned = found("tuned")
    bootstrap = Bootstrap(result.bootstrap_samples, result.confidence, result.seed)
    scores = TaskScores(
        settings=section.model_dump(mode="json"),
        lm_eval_version=version("lm-eval"),
        files_hash=tasks.files_hash,
        scores=task_scores(base, tuned, Resampler(bootstrap)),
    )
    header = {"recipe": target.header.recipe, "recipe_hash": target.header.recipe_hash}
    result = result.model_copy(update={**header, "lm_eval": scores})
    write_result(result, target.path)
    return result


def _folder(section: LmEvalSection, recipe_dir: Path) -> Path | None:
    """The folder of the user's own task files. Raises RecipeError where it is missing."""
    if section.include_path is None:
        return None
    folder = path_of(section.include_path, "eval.lm_eval.include_path", recipe_dir)
    if not folder.is_dir():
        raise RecipeError(
            f"eval.lm_eval.include_path: there is no folder {folder}",
            remedy="Relative paths start at the recipe's folder.",
        )
    return folder


def _files_hash(folder: Path) -> str:
    """Of all files in it: task files, what they include, Python beside them, documents.

    Raises RecipeError where they are so many that the folder must be another one than was meant.
    """
    digest, left = hashlib.sha256(), _MOST_BYTES
    for path in sorted(_files_in(folder)):
        content = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                content.update(piece)
                left -= len(piece)
                if left < 0:
                    raise _too_much(folder, f"{_MOST_BYTES >> 20:,} MiB")
        digest.update(f"{path.relative_to(folder).as_posix()}\0{content.hexdigest()}\0".encode())
    return digest.hexdigest()


def _files_in(folder: Path) -> list[Path]:
    files: list[Path] = []
    for seen, (parent, _, names) in enumerate(os.walk(folder), start=1):
        if Path(parent).name != "__pycache__":
            files += [Path(path) for name in names if os.path.isfile(path := os.path.join(parent, name))]
        if seen + len(files) > _MOST_FILES:
            raise _too_much(folder, f"{_MOST_FILES:,} files and folders")
    return files


def _too_much(folder: Path, what: str) -> RecipeError:
    return RecipeError(
        f"eval.lm_eval.include_path: {folder} holds more than {what}",
        remedy="Give the task files, and the documents that they read, a folder of their own.",
    )
