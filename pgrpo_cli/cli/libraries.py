"""Other libraries in a process of ours: nothing of theirs reaches the terminal, and none of them spins."""

from __future__ import annotations

import logging
import os
import platform
import sys
import warnings
from typing import TextIO

from pgrpo_cli.errors import RunWarning

_ENVIRONMENT = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_VERBOSITY": "critical",
    "DATASETS_VERBOSITY": "critical",
    "TRANSFORMERS_VERBOSITY": "critical",
    "EVALUATE_VERBOSITY": "critical",
    "TORCH_LOGS": "-all",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Turns that a waiting OpenMP thread (GNU's) takes before it sleeps: some 50 µs, enough for the gap
    # between two operations. By default it spins for milliseconds, which halves the speed of a machine with
    # other work.
    "GOMP_SPINCOUNT": "30000",
}

_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
"""Where torch reads its allocator's settings: the name of today, and older ones that count, too."""

_LOGGERS = (
    "absl", "accelerate", "aiohttp", "bitsandbytes", "dill", "evaluate", "filelock", "fsspec", "gguf",
    "httpcore2", "httpx2", "peft", "requests", "sacrebleu", "trl", "urllib3",
)  # fmt: skip
"""Of libraries that have no variable for it. What users of the code of a recipe log is theirs."""


def prepare_libraries() -> None:
    """Keep other libraries' progress bars, log messages, warnings and telemetry off the terminal, and their
    threads from spinning. Call before importing them; what the user has set stays.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    _let_segments_grow()
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for package in ("transformers", "peft", "bitsandbytes", "torch"):
        warnings.filterwarnings("ignore", module=rf"{package}(\..*)?$")


def _let_segments_grow() -> None:
    """Let torch's allocator on a GPU extend its segments, so that less memory is lost between them.

    Not in Windows' Linux: drivers there fail at the first tensor (pytorch issue 192330).
    """
    native = sys.platform == "linux" and "microsoft" not in platform.release().lower()
    if native and not any(name in os.environ for name in _ALLOCATOR):
        os.environ[_ALLOCATOR[0]] = "expandable_segments:True"


def show_own_warnings() -> None:
    """Show our own warnings, and those of the code of a recipe, as notes, and no others unless users ask."""
    warnings.showwarning = _show
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", module="pgrpo_recipe_code_")
        warnings.simplefilter("default", RunWarning)


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    from .terminal import note

    where = "" if issubclass(category, RunWarning) else f"{filename}:{lineno}: {category.__name__}: "
    note(f"{where}{message}", "warning: ", "bold yellow")
