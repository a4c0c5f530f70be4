"""Modules beside a reward's file, which it may import by their name."""

from __future__ import annotations

import ast
import sys
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import ModuleType

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
            for name in [name for name in sys.modules if name not in self._before]:
                if _lies_in(self._folder, sys.modules[name]):
                    self._modules[name] = sys.modules.pop(name)


def _lies_in(folder: str, module: ModuleType) -> bool:
    # A package without __init__.py has no file, and a path. The module itself is not asked for it: torch has
    # some that answer to every name.
    spec = getattr(module, "__spec__", None)
    path = getattr(spec, "submodule_search_locations", None)
    places = [getattr(module, "__file__", None) or "", *(path or ())]
    return any(str(place).startswith(f"{folder}/") for place in places)


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
