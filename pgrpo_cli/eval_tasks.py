"""`eval.lm_eval` in `pgrpo eval`: tasks of the LM Evaluation Harness, by the base model and the tuned one.

Tasks and their documents are loaded before anything is sampled, so that a wrong name costs nothing. They are
answered after the evaluation is on disk: what fails costs no completion, and the same command goes on there.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from pgrpo_cli.algo.intervals import Bootstrap
from pgrpo_cli.errors import EvalError, PgrpoError, RecipeError
from pgrpo_cli.model.oom import is_out_of_memory
from pgrpo_cli.model.policy import Policy
from pgrpo_cli.model.task_model import task_model
from pgrpo_cli.recipe.eval_tasks import LmEvalSection
from pgrpo_cli.registry import nearest
from pgrpo_cli.report.estimates import Estimator
from pgrpo_cli.report.task_scores import task_scores
from pgrpo_cli.report.types import EvalResult, TaskScores, Which
from pgrpo_cli.state.results import write_result
from pgrpo_cli.state.subject import Subject

Progress = Callable[[Which, int, int], None]
"""Called with the model that answers, the requests answered, and the number of requests."""

# lm-eval's own, so that its command line gives the same numbers.
_FEWSHOT_SEED, _PYTHON_SEED, _TORCH_SEED = 1234, 0, 1234


@dataclass(frozen=True)
class Tasks:
    """Loaded tasks: what `lm_eval.tasks.TaskManager.load` returns, and where they are from."""

    section: LmEvalSection
    loaded: Any
    code_hash: str | None


def tasks_to_run(
    subject: Subject,
    kept: EvalResult | None,
    *,
    allow_code: bool = False,
    on_note: Callable[[str], None] = lambda text: None,
) -> Tasks | None:
    """The tasks of the subject's recipe; None where it names none, or `kept` holds their scores.

    Raises RecipeError where the package is missing, a task is unknown, runs code, or its files may not be
    read, EvalError where its documents cannot be had.
    """
    section = subject.recipe.eval.lm_eval
    if section is None:
        return None
    folder = _folder(section, subject.recipe_dir, allow_code=allow_code)
    code_hash = None if folder is None else _code_hash(folder)
    found = kept.lm_eval if kept else None
    if found and (found.settings, found.code_hash) == (section.model_dump(mode="json"), code_hash):
        return None
    on_note("lm-eval: reading its tasks")
    with _quiet():
        manager = _package("lm_eval.tasks").TaskManager(include_path=None if folder is None else str(folder))
        known = manager.all_tasks
        for name in section.tasks:
            # lm-eval takes a path for a name, and a task file names Python to run.
            if name not in known:
                near = nearest(name, known)
                hint = f"; did you mean {near!r}?" if near else ""
                raise RecipeError(
                    f"eval.lm_eval.tasks: lm-eval has no task {name!r}{hint}",
                    remedy="`lm-eval ls tasks` lists them; task files of your own need `include_path`.",
                )
        with _explained(f"lm-eval cannot load {', '.join(section.tasks)}", "Are their documents at hand?"):
            loaded = manager.load(list(section.tasks))
    for name, task in loaded["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False):
            raise RecipeError(
                f"eval.lm_eval.tasks: {name} runs what a model writes as a program, which pgrpo does not",
                remedy="Leave it out; run it with lm-eval's own command in a sandbox.",
            )
    return Tasks(section, loaded, code_hash)


def run_tasks(
    subject: Subject,
    result: EvalResult,
    tasks: Tasks,
    policy: Policy,
    *,
    progress: Progress = lambda which, done, total: None,
) -> EvalResult:
    """The evaluation of the subject with the scores of both models in the tasks, kept in its run.

    Raises EvalError where lm-eval fails.
    """
    remedy = "Lower eval.lm_eval.batch_size, or leave that task out. The evaluation itself is kept."
    with _quiet(), _explained("lm-eval failed", remedy):
        model = task_model(policy, tasks.section.batch_size)

        def found(which: Which) -> Any:
            model.progress = lambda done, total: progress(which, done, total)
            return _evaluated(model, tasks)

        with policy.base():
            base = found("base")
        tuned = found("tuned")
    bootstrap = Bootstrap(result.bootstrap_samples, result.confidence, result.seed)
    scores = TaskScores(
        settings=tasks.section.model_dump(mode="json"),
        lm_eval_version=version("lm-eval"),
        code_hash=tasks.code_hash,
        scores=task_scores(base, tuned, Estimator(bootstrap)),
    )
    header = {"recipe": subject.header.recipe, "recipe_hash": subject.header.recipe_hash}
    result = result.model_copy(update={**header, "lm_eval": scores})
    write_result(result, subject.path)
    return result


def _evaluated(model: Any, tasks: Tasks) -> Any:
    """What `lm_eval.simple_evaluate` does with a loaded model and loaded tasks.

    That function asks git and the machine about themselves on every call, and prints what it hears.
    """
    import numpy

    section = tasks.section
    random.seed(_PYTHON_SEED)
    numpy.random.seed(_TORCH_SEED)
    torch.manual_seed(_TORCH_SEED)
    for task in tasks.loaded["tasks"].values():
        own = task.get_config("num_fewshot")
        # A task that says 0 cannot have examples.
        task.set_config(key="num_fewshot", value=own if own == 0 else _first(section.num_fewshot, own, 0))
        task.set_fewshot_seed(seed=_FEWSHOT_SEED)
    return _package("lm_eval").evaluate(
        lm=model,
        task_dict=tasks.loaded,
        limit=section.limit,
        bootstrap_iters=0,
        apply_chat_template=section.chat_template,
        fewshot_as_multiturn=section.chat_template,
    )


def _folder(section: LmEvalSection, recipe_dir: Path, *, allow_code: bool) -> Path | None:
    """The folder of the user's own task files. Raises RecipeError unless code is allowed and it is there."""
    if section.include_path is None:
        return None
    folder = recipe_dir / Path(section.include_path).expanduser()
    if not allow_code:
        raise RecipeError(
            f"eval.lm_eval.include_path: the task files in {folder} name Python to run; "
            "code that a recipe names is not run by default",
            remedy="Read the files; if you trust them, add --allow-code.",
        )
    if not folder.is_dir():
        raise RecipeError(
            f"eval.lm_eval.include_path: there is no folder {folder}",
            remedy="Relative paths start at the recipe's folder.",
        )
    return folder


def _code_hash(folder: Path) -> str:
    """Of the task files and what Python is beside them."""
    digest = hashlib.sha256()
    for path in sorted(p for kind in ("*.yaml", "*.py") for p in folder.rglob(kind)):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _package(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise RecipeError(
            f"eval.lm_eval needs the package lm-eval, which cannot be imported: {error}",
            remedy="pip install 'pgrpo-cli[lm-eval]'",
        ) from error


@contextmanager
def _explained(what: str, remedy: str) -> Iterator[None]:
    """A task is a program of somebody else's: whatever it raises becomes an EvalError."""
    try:
        yield
    except PgrpoError:
        raise
    except Exception as error:
        reason = "out of memory" if is_out_of_memory(error) else f"{type(error).__name__}: {error}"
        raise EvalError(f"{what}: {reason}", remedy=remedy) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Neither lm-eval's log nor the bars of datasets: only the command line prints."""
    import datasets

    logger, bars = logging.getLogger("lm_eval"), datasets.are_progress_bars_disabled()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()


def _first(*values: int | None) -> int:
    return next(value for value in values if value is not None)
