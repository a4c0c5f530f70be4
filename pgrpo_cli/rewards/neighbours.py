"""Modules beside a reward's file, which it may import by their name."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import ModuleType

_LOCK = threading.Lock()


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
    # A package without __init__.py has no file, and a path.
    places = [getattr(module, "__file__", None) or "", *(getattr(module, "__path__", None) or ())]
    return any(str(place).startswith(f"{folder}/") for place in places)
