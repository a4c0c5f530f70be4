"""Other libraries' behaviour in a process of ours."""

from __future__ import annotations

import logging
import os
import warnings

_QUIET_ENV = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


_SPINS = "30000"
"""Turns that a waiting OpenMP thread (GNU's) takes before it sleeps: some 50 µs, enough for the gap between
two operations. By default it spins for milliseconds, which halves the speed of a machine with other work."""


def prepare_libraries() -> None:
    """Keep other libraries' progress bars, notices and telemetry off the terminal, and their threads from
    spinning. Call before importing them; what the user has set stays.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    for name, value in _QUIET_ENV.items():
        os.environ.setdefault(name, value)
    for package in ("transformers", "peft", "bitsandbytes", "torch"):
        warnings.filterwarnings("ignore", module=rf"{package}(\..*)?$")
    # It asks for an optional package each time that it is imported.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
