"""pgrpo: fine-tune one chat model for many tastes with P-GRPO (arXiv 2603.10009).

Its names, such as `prepare` and `train`, are what the commands of the same names call. They are imported when
they are asked for, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_MODULE_OF = {
    "prepare": "verbs.prepare",
    "train": "verbs.train",
    "evaluate": "verbs.evaluate",
    "compare": "verbs.compare",
    "export": "verbs.export",
    "chat": "verbs.chat",
    "taste": "verbs.taste",
    "serve": "verbs.serve",
    "Callbacks": "verbs.callbacks",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *_MODULE_OF]
