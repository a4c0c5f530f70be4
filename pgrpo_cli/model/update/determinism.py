"""`train.deterministic`: results that repeat bit for bit on a GPU, as far as torch's kernels allow.

In an update torch runs in strict mode: an operation without a deterministic kernel is an error. Strict mode
is needed there, since only then is the backward pass of memory-efficient attention deterministic. Everything
else, above all rollouts, uses deterministic kernels where they exist, and does not fail where they do not.
Strict mode would refuse the cumulative sums by which tokens are drawn, although torch adds them in a fixed
order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pgrpo_cli.errors import TrainingError
from pgrpo_cli.recipe.training import TrainSection

_MEMORY: Any = torch.utils.deterministic
_WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
"""cuBLAS adds in a fixed order only with this setting, and torch's strict mode demands it."""
_REFUSALS = ("does not have a deterministic implementation", _WORKSPACE[0])
"""Parts of the message when torch refuses an operation. It raises RuntimeError, without a type of its own."""


def prepare_determinism(train: TrainSection) -> None:
    """Set the environment variable that must be set before CUDA starts. A value set by the user stays."""
    if train.deterministic:
        os.environ.setdefault(*_WORKSPACE)


@contextmanager
def deterministic(train: TrainSection, *, strict: bool) -> Iterator[None]:
    """Within the block torch computes deterministically, if the recipe says so.

    `strict`: raise TrainingError for an operation that has no deterministic kernel.
    """
    if not train.deterministic:
        yield
        return
    prepare_determinism(train)
    before = _settings()
    _set(True, not strict, False, False)
    try:
        yield
    except RuntimeError as error:
        if not strict or not any(words in str(error) for words in _REFUSALS):
            raise
        raise TrainingError(
            f"train.deterministic is true, and torch refuses an operation: {str(error).splitlines()[0]}",
            remedy="Set train.deterministic to false and continue the run: on a GPU it then no longer "
            "repeats itself bit for bit. Where CUBLAS_WORKSPACE_CONFIG is named: unset it, or set it to "
            ":4096:8, before Python starts.",
        ) from error
    finally:
        _set(*before)


def _settings() -> tuple[bool, bool, bool, bool]:
    """(deterministic, warnings only, cuDNN's benchmark, filling of uninitialised memory)."""
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        _MEMORY.fill_uninitialized_memory,
    )


def _set(enabled: bool, warn_only: bool, benchmark: bool, fill: bool) -> None:
    torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
    torch.backends.cudnn.benchmark = benchmark
    # By default torch fills uninitialised memory in deterministic mode. That costs time and is not needed,
    # since all buffers are written before they are read.
    _MEMORY.fill_uninitialized_memory = fill
