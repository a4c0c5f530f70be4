"""The checks: cheapest and most telling first. No torch is imported, so that the parent process has none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .results import Found
    from .subject import Subject

    Run = Callable[[Subject], tuple[Found, str | None]]
    """What a check does: what it found, and what is wrong with that. Raises Skipped where it does not
    apply.
    """


class Skipped(Exception):
    """A check does not apply; the message says why."""


@dataclass(frozen=True)
class Check:
    """`question`: what it answers. `seconds`: how long it may take before it counts as hanging. `module`:
    where its function is, which has its name.
    """

    name: str
    question: str
    seconds: float
    module: str

    def function(self) -> Run:
        """The function itself, with all that it imports."""
        module = import_module(f".{self.module}", __package__)
        return getattr(module, self.name.replace("-", "_"))  # type: ignore[no-any-return]


CHECKS = (
    Check("versions", "What is installed?", 120, "machine"),
    Check("device", "What computes, and can it compute what recipes ask for?", 60, "machine"),
    Check("rates", "How fast does it copy and multiply?", 60, "machine"),
    Check("gradient", "Do LoRA gradients survive a rollout on NF4 weights?", 60, "exactness"),
    Check("model", "Can the model be built, and which paths does it take?", 120, "exactness"),
    Check("resume", "Does a run with adamw_8bit continue as if it had not stopped?", 120, "runs"),
    Check("probe", "Do fast paths agree with the plain one, whatever the seed?", 120, "exactness"),
    Check("graphs", "Are decode steps captured in CUDA graphs?", 60, "speed"),
    Check("decoding", "How long does a token take?", 120, "speed"),
    Check("kernels", "How many kernels does the host launch for a token?", 60, "speed"),
    Check("update", "How long does an update take, and how much memory?", 120, "training"),
    Check("plan", "Does a run hold what `pgrpo plan` says?", 150, "memory"),
    Check("out-of-memory", "Does a run continue where memory runs out?", 120, "drills"),
)
BY_NAME = {check.name: check for check in CHECKS}
ALWAYS = ("versions", "device")
"""Checks that no choice leaves out: the others mean nothing without them."""
