"""`train.deterministic`: the same bits again on a GPU, as far as torch's kernels allow.

Within an update torch is strict: an operation without a deterministic kernel is an error. It has to be, since
the memory-efficient attention's backward pass is deterministic only then. Everything else of a run, above all
rollouts, takes deterministic kernels where there are some, and does not fail where there are none. Strictness
would refuse the cumulative sums by which tokens are drawn, although torch then adds them in a fixed order.
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
"""What cuBLAS needs in order to add in a fixed order, and torch's strict mode in order to trust it."""
_REFUSALS = ("does not have a deterministic implementation", _WORKSPACE[0])
"""What torch says of an operation that it refuses, in a plain RuntimeError."""


def prepare_determinism(train: TrainSection) -> None:
    """Set what must be set before CUDA starts. What the user has set stays."""
    if train.deterministic:
        os.environ.setdefault(*_WORKSPACE)


@contextmanager
def deterministic(train: TrainSection, *, strict: bool) -> Iterator[None]:
    """Within the block torch computes deterministically, where the recipe wants that; later as before.

    `strict`: what has no deterministic kernel is refused. Raises TrainingError for it.
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
            remedy="Set train.deterministic to false and go on with the run: on a GPU it then no longer "
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
    # Buffers are written before they are read; filling them would cost time.
    _MEMORY.fill_uninitialized_memory = fill
