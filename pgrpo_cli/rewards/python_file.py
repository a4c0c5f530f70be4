"""Rewards that are code: a function in the user's own Python file, or what an installed package brings."""

from __future__ import annotations

import ast
import importlib.util
import math
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from pgrpo_cli.errors import RecipeError
from pgrpo_cli.names import nearest
from pgrpo_cli.paths import path_of
from pgrpo_cli.plugins import build_from_entry_point
from pgrpo_cli.recipe.reward_base import RewardBase
from pgrpo_cli.recipe.rewards import PluginReward, PythonReward

from .base import (
    AsyncRewardFunction,
    BuildContext,
    Builder,
    Completion,
    RewardFunction,
    Score,
    is_asynchronous,
    refuse_coroutine,
)
from .calls import described, place_of, written

ENTRY_POINT_GROUP = "pgrpo.rewards"
_LOCK = threading.Lock()
_LONGEST_FILE, _LONGEST_NAME, _MOST_FILES = 1 << 20, 60, 1000
"""Bytes of a file that is looked into for imports, characters of a module's name, and files that are told."""


class Neighbours:
    """While it is entered, modules of the folder can be imported, after all that is installed.

    Outside of it they are neither found nor in `sys.modules`, so that another reward's file may have a
    neighbour of the same name. It is entered again while it is open where calls overlap.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder.resolve())
        self._modules: dict[str, ModuleType] = {}
        self._entered = 0
        self._before: frozenset[str] = frozenset()
        # What is installed may lie below the folder, as in a virtual environment that stands beside the file.
        self._installed = tuple(f"{place}/" for place in sys.path if place.startswith(f"{self._folder}/"))

    def __enter__(self) -> None:
        with _LOCK:
            self._entered += 1
            if self._entered == 1:
                self._before = frozenset(sys.modules)
                for name, module in self._modules.items():
                    sys.modules.setdefault(name, module)
                sys.path.append(self._folder)

    def __exit__(self, *raised: object) -> None:
        with _LOCK:
            self._entered -= 1
            if self._entered:
                return
            # The last one: the user may have named the folder, too.
            last = len(sys.path) - 1 - sys.path[::-1].index(self._folder)
            del sys.path[last]
            new = [name for name in sys.modules if name not in self._before]
            # All are looked at before any leaves: the path of a package without __init__.py is computed, and
            # needs the package that it is in.
            for name in [name for name in new if self._is_neighbour(name)]:
                self._modules[name] = sys.modules.pop(name)

    def _is_neighbour(self, name: str) -> bool:
        # Nor is it one if the package that it is in was there before, and stays.
        return name.partition(".")[0] not in self._before and any(
            place.startswith(f"{self._folder}/") and not place.startswith(self._installed)
            for place in _places(sys.modules[name])
        )


def _places(module: ModuleType) -> list[str]:
    # A package without __init__.py has no file, and a path. The module itself is not asked for it: torch has
    # some that answer to every name.
    spec = getattr(module, "__spec__", None)
    path = getattr(spec, "submodule_search_locations", None)
    return [str(place) for place in (getattr(module, "__file__", None) or "", *(path or ()))]


@dataclass(frozen=True)
class _Function:
    """TRL's calling convention: `f(prompts, completions, **columns) -> list of numbers`.

    Prompts and completions are texts. The columns are those of the data rows, each as a list with an entry a
    completion (None where a row lacks it), and always `preference_group` and `prompt_id`. None means NaN.
    While it is called it may import what lies beside its file, as the file itself may.
    """

    function: Callable[..., Any]
    neighbours: Neighbours

    @property
    def parts(self) -> tuple[str, ...]:
        return ("value",)

    @property
    def value_range(self) -> None:
        return None

    def explained(self, error: BaseException, completions: Sequence[Completion]) -> str | None:
        """Whether the calling convention may be what went wrong."""
        said = str(error) if isinstance(error, TypeError | AttributeError) else ""
        if "'str' object" in said or "string ind" in said:
            return "`prompts` and `completions` are lists of texts here, not of messages with `content`."
        if place_of(error) is None and "argument" in said:
            named = ", ".join(f"{name}=[...]" for name in _arguments(completions))
            return f"It is called as f({named}): let it take what it does not use as **columns."
        return None


class PythonFunction(_Function):
    """A plain function, called once with all completions of a step."""

    def __call__(self, completions: Sequence[Completion]) -> list[Score]:
        with self.neighbours:
            return _scores(refuse_coroutine(self.function(**_arguments(completions))))


class AsyncPythonFunction(_Function):
    """An `async def` function, called with the completions of each batch; see `AsyncRewardFunction`."""

    async def __call__(self, completions: Sequence[Completion]) -> list[Score]:
        with self.neighbours:
            return _scores(await self.function(**_arguments(completions)))


def _arguments(completions: Sequence[Completion]) -> dict[str, list[Any]]:
    names = sorted({name for completion in completions for name in completion.columns})
    columns: dict[str, list[Any]] = {
        name: [completion.columns.get(name) for completion in completions] for name in names
    }
    columns["preference_group"] = [completion.preference_group for completion in completions]
    columns["prompt_id"] = [completion.prompt_id for completion in completions]
    columns["prompts"] = [completion.prompt for completion in completions]
    columns["completions"] = [completion.text for completion in completions]
    return columns


def _scores(values: Any) -> list[Score]:
    if values is None or isinstance(values, str | bytes):
        raise TypeError(f"it returned {written(values)} where a list of numbers was due")
    return [Score(value, {"value": value}) for value in (math.nan if v is None else v for v in values)]


def build_python(section: PythonReward, context: BuildContext) -> PythonFunction | AsyncPythonFunction:
    """Load the file and take the function from it. Raises RecipeError unless code is allowed and loads."""
    path = path_of(section.file, f"reward {section.label!r}: file", context.recipe_dir)
    if not context.allow_code:
        raise RecipeError(
            f"reward {section.label!r} runs the Python file {path}; "
            "code that a recipe names is not run by default",
            remedy="Read the file; if you trust it, add --allow-code.",
        )
    if not path.is_file():
        raise RecipeError(
            f"reward {section.label!r} names the Python file {path}, which does not exist",
            remedy="Relative paths start at the recipe's folder.",
        )
    neighbours = Neighbours(path.parent)
    with neighbours:
        module = _load(path, section.label)
    function = getattr(module, section.function, None)
    if not callable(function):
        names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        near = nearest(section.function, names)
        hint = f"; did you mean {near!r}?" if near else ""
        raise RecipeError(
            f"reward {section.label!r}: {path} has no function {section.function!r}{hint}",
            remedy=f"Set `function` to one of its functions: {', '.join(sorted(names)) or 'it has none'}.",
        )
    kind = AsyncPythonFunction if is_asynchronous(function) else PythonFunction
    return kind(function, neighbours)


def _load(path: Path, label: str) -> ModuleType:
    name = f"pgrpo_recipe_code_{path.stem}_{zlib.crc32(str(path.resolve()).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RecipeError(
            f"reward {label!r}: {path} is no Python file", remedy="Name a file that ends in .py."
        )
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling look their module up there while the file runs.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        place = f"\n  {found}" if (found := place_of(error)) else ""
        raise RecipeError(
            f"reward {label!r}: importing {path} raised {described(error)}{place}",
            remedy="Correct the file, or install what it imports; modules in its own folder are found.",
        ) from error
    return module


def build_plugin(section: PluginReward, context: BuildContext) -> RewardFunction | AsyncRewardFunction:
    """Load the entry point and call it with the options; it returns the reward.

    Raises RecipeError unless code is allowed and it makes a reward.
    """
    where = f"reward {section.label!r}"
    reward, named = build_from_entry_point(
        ENTRY_POINT_GROUP, section.plugin, section.options, where=where, allow_code=context.allow_code
    )
    if not isinstance(reward, RewardFunction) or not callable(reward):
        raise RecipeError(
            f"{where}: {named} made a {type(reward).__name__}, which is no reward",
            remedy="A reward has `parts`, `value_range` and is called with a list of completions.",
        )
    return reward


def imported_files(path: Path) -> list[Path]:
    """The file, and what of its folder it imports, as do those files in turn. Nothing is run.

    It may name a module too many, one that is hidden by an installed one, and none that code asks for by a
    text.
    """
    found = [path]
    for file in found:
        for name in _imported_names(file):
            for near in _files_of(path.parent, name):
                if near not in found and len(found) < _MOST_FILES:
                    found.append(near)
    return found


def _files_of(folder: Path, name: str) -> list[Path]:
    package = folder / name
    if (package / "__init__.py").is_file():
        return sorted(islice(package.rglob("*.py"), _MOST_FILES))
    module = folder / f"{name}.py"
    return [module] if module.is_file() else []


def _imported_names(file: Path) -> Iterator[str]:
    """The first part of each name that is imported."""
    try:
        if file.stat().st_size > _LONGEST_FILE:
            return
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
        yield from (first for name in names if len(first := name.partition(".")[0]) <= _LONGEST_NAME)


BUILDERS: dict[type[RewardBase], Builder] = {PythonReward: build_python, PluginReward: build_plugin}
