"""The package lm-eval: its tasks, found by name and loaded, and the policy as a model that it can ask.

Nothing of it prints.

lm-eval runs code where one may not expect it. A name that is a path is read as a task file, which names
Python; a metric that it lacks is fetched by the package evaluate, which runs a script of that name in the
current folder, or one from the hub. Both are refused here.
"""

from __future__ import annotations

import io
import logging
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from pgrpo_cli.errors import EvalError, PgrpoError, RecipeError
from pgrpo_cli.model.policy import Policy
from pgrpo_cli.names import nearest
from pgrpo_cli.pretrained.chat import Chat
from pgrpo_cli.pretrained.memory import is_out_of_memory, release_memory
from pgrpo_cli.recipe.templates import TemplateProblem

# lm-eval's own, so that its command line gives the same numbers.
_FEWSHOT_SEED, _PYTHON_SEED, _TORCH_SEED = 1234, 0, 1234

RequestProgress = Callable[[int, int], None]
"""Called with the requests answered and the number of requests."""


def load_tasks(names: Sequence[str], folder: Path | None, *, allow_code: bool) -> Any:
    """What `lm_eval.tasks.TaskManager.load` returns. `folder`: task files besides those of the package.

    Raises RecipeError where the package is missing, a task is unknown, or one runs code that is not allowed;
    EvalError where its documents cannot be had.
    """
    # Imported for its own requirements: what is missing shows before anything is sampled.
    package("lm_eval.models.huggingface")
    with quiet(), _metrics_from_elsewhere(allow_code):
        manager = package("lm_eval.tasks").TaskManager(include_path=None if folder is None else str(folder))
        for name in names:
            if name not in manager.all_tasks:
                near = nearest(name, manager.all_tasks)
                hint = f"; did you mean {near!r}?" if near else ""
                raise RecipeError(
                    f"eval.lm_eval.tasks: lm-eval has no task {name!r}{hint}",
                    remedy="`lm-eval ls tasks` lists them; task files of your own need `include_path`.",
                )
            _refuse_programs(name, manager.task_index)
        remedy = (
            "Most documents come from the Hugging Face Hub: go online once, or leave the task out of "
            "eval.lm_eval.tasks."
        )
        with explained(f"lm-eval cannot load {', '.join(names)}", remedy):
            return manager.load(list(names))


def answered(
    model: Any,
    loaded: Any,
    *,
    limit: int | None,
    num_fewshot: int | None,
    chat_template: bool,
    system_prompt: str | None,
    allow_code: bool,
    on_note: Callable[[str], None],
) -> Any:
    """What `lm_eval.simple_evaluate` returns for a `task_model` and loaded tasks, with samples.

    That function itself asks git and the machine about themselves on every call, and prints what it hears.
    Out of memory, it tries again with smaller batches. Raises EvalError where a task fails.
    """
    import numpy

    lm_eval = package("lm_eval")
    while True:
        random.seed(_PYTHON_SEED)
        numpy.random.seed(_TORCH_SEED)
        torch.manual_seed(_TORCH_SEED)
        for task in loaded["tasks"].values():
            own = task.get_config("num_fewshot")
            # A task that says 0 cannot have examples.
            examples = own if own == 0 or num_fewshot is None else num_fewshot
            task.set_config(key="num_fewshot", value=examples or 0)
            task.set_fewshot_seed(seed=_FEWSHOT_SEED)
        remedy = "Lower eval.lm_eval.max_length, or leave that task out. The evaluation itself is kept."
        with quiet(), _metrics_from_elsewhere(allow_code), explained("lm-eval failed", remedy):
            try:
                return lm_eval.evaluate(
                    lm=model,
                    task_dict=loaded,
                    limit=limit,
                    bootstrap_iters=0,
                    apply_chat_template=chat_template,
                    fewshot_as_multiturn=chat_template,
                    system_instruction=system_prompt if chat_template else None,
                )
            except RuntimeError as error:
                if not is_out_of_memory(error) or not model.lower_batch_size():
                    raise
        on_note(f"out of memory; lm-eval now computes {model.batch_size_per_gpu} at a time")
        # Only here: within the block above the traceback holds the failed attempt's tensors.
        release_memory()


def task_model(
    policy: Policy, *, batch_size: int, max_length: int, chat_template_kwargs: Mapping[str, Any]
) -> Any:
    """An `lm_eval.models.huggingface.HFLM` of the policy as it is: adapter on or off when it is asked.

    `max_length`: tokens of a request. `chat_template_kwargs`: as `apply_chat_template` of the tokenizer takes
    them. The attribute `progress` of the model takes a `RequestProgress`; requests of one kind count
    together. What rollouts left in the policy's workspace is given back: full logits need the room.
    """
    from lm_eval.models.huggingface import HFLM

    class TaskModel(HFLM):  # type: ignore[misc, unused-ignore]
        progress: RequestProgress
        batch_size_per_gpu: int

        def _counted(self, ask: Callable[..., Any], requests: list[Any]) -> Any:
            self.set_cache_hook(_Counter(self.progress, len(requests)))
            self.progress(0, len(requests))
            return ask(requests, disable_tqdm=True)

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> Any:
            return self._counted(super().loglikelihood, requests)

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> Any:
            return self._counted(super().loglikelihood_rolling, requests)

        def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> Any:
            return self._counted(super().generate_until, requests)

        def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = True, **options: Any) -> Any:
            return super()._loglikelihood_tokens(requests, disable_tqdm=True, **options)

        def apply_chat_template(
            self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
        ) -> str:
            chat = Chat(self.tokenizer, "the model of the run", self.chat_template_args)
            try:
                if add_generation_prompt:
                    return chat.text(chat_history, add_generation_prompt=True)
                return chat.unfinished(chat_history)
            except TemplateProblem as problem:
                raise chat.unusable(f"it refuses a task's conversation: {problem}") from problem

        def lower_batch_size(self) -> bool:
            """Halve it; whether that could be done."""
            can = self.batch_size_per_gpu > 1
            self.batch_size_per_gpu = max(1, self.batch_size_per_gpu // 2)
            return can

    policy.workspace.release()
    with warnings.catch_warnings():
        # What transformers says about attributes that lm-eval asks for is nothing to the user.
        warnings.simplefilter("ignore", FutureWarning)
        model = TaskModel(
            pretrained=policy.model,
            tokenizer=policy.tokenizer,
            batch_size=batch_size,
            chat_template_args=dict(chat_template_kwargs),
        )
    # Never more than the model takes.
    model._max_length = min(max_length, model.max_length)
    model.progress = lambda done, total: None
    return model


class _Counter:
    """In the place of lm-eval's cache, which hears of every answer."""

    def __init__(self, progress: RequestProgress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def add_partial(self, kind: str, request: Any, answer: Any) -> None:
        # The parts of a long text are requests within a request.
        self._done = min(self._done + 1, self._total)
        self._progress(self._done, self._total)


def package(module: str) -> Any:
    """A module of lm-eval. Raises RecipeError if it cannot be imported."""
    try:
        with quiet():
            return import_module(module)
    except ImportError as error:
        raise RecipeError(
            f"eval.lm_eval needs the package lm-eval, which cannot be imported: {error}",
            remedy="pip install 'pgrpo-cli[lm-eval]'",
        ) from error


@contextmanager
def explained(what: str, remedy: str) -> Iterator[None]:
    """A task is a program of somebody else's: whatever it raises becomes an EvalError."""
    try:
        yield
    except PgrpoError:
        raise
    except Exception as error:
        reason = "out of memory" if is_out_of_memory(error) else f"{type(error).__name__}: {error}"
        raise EvalError(f"{what}: {reason}", remedy=remedy) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Neither lm-eval's log, nor what its tasks print, nor the bars of datasets."""
    import datasets

    logger, bars = logging.getLogger("lm_eval"), datasets.are_progress_bars_disabled()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()


def _refuse_programs(name: str, index: Any) -> None:
    """Raises RecipeError if a task, or one of a group or tag, runs what a model writes as a program."""
    entry = index.get(name)
    if entry is None:
        return
    config = entry.cfg or {}
    parts = config.get("task") if entry.kind.name == "GROUP" else sorted(entry.tags)
    if entry.kind.name in ("GROUP", "TAG"):
        for part in parts if isinstance(parts, list) else [parts]:
            _refuse_programs(part.get("task", "") if isinstance(part, dict) else str(part), index)
    elif config.get("unsafe_code"):
        raise RecipeError(
            f"eval.lm_eval.tasks: {name} runs what a model writes as a program, which pgrpo does not",
            remedy="Leave it out; run it with lm-eval's own command in a sandbox.",
        )


@contextmanager
def _metrics_from_elsewhere(allowed: bool) -> Iterator[None]:
    """Unless they are allowed, metrics that are not lm-eval's own are refused."""
    if allowed:
        yield
        return
    evaluate = package("evaluate")
    load = evaluate.load

    def refuse(path: str, *arguments: Any, **options: Any) -> Any:
        raise RecipeError(
            f"eval.lm_eval.tasks: a task wants the metric {path!r}, a script from the current folder or the "
            "Hugging Face Hub; code that a recipe names is not run by default",
            remedy="If you trust it, add --allow-code; or leave the task out.",
        )

    evaluate.load = refuse
    try:
        yield
    finally:
        evaluate.load = load
