"""A run's memory before it runs: bytes by part and phase, the peak, and where it fits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..rollout.weight_copies import copy_pays
from ..rollout.workspace import fits_beside_updates
from .weights import PARTS
from .work import ACTIVATIONS, CACHE, COPIES, LOGITS, MASK, Batch

Device = Literal["cuda", "cpu"]

GIB = 1 << 30
CARDS_GIB = (8, 12, 16, 24, 80)
"""Memory of the GPUs that people have."""

ADAPTER, GRADIENTS, OPTIMIZER = "adapter", "gradients", "optimizer state"
STEP, LOADING, REWARDS = "optimizer step", "loading", "reward models"
ORDER = (
    *PARTS, REWARDS, ADAPTER, OPTIMIZER, GRADIENTS, LOADING, COPIES, CACHE, ACTIVATIONS, MASK, LOGITS, STEP
)  # fmt: skip
"""Parts as a table lists them."""


@dataclass(frozen=True)
class Overhead:
    """What a process holds besides tensors: `fixed` bytes, and `share` of the tensors."""

    fixed: int
    share: float

    def with_tensors(self, tensors: int) -> int:
        """Bytes of the tensors and all else."""
        return self.fixed + round((1 + self.share) * tensors)


OVERHEADS: dict[Device, Overhead] = {
    # The context with its kernels; what the caching allocator cannot use between blocks. Estimated.
    "cuda": Overhead(fixed=GIB // 2, share=0.05),
    # Python, the libraries and their caches, resident; the heap's holes. Fitted to what benchmarks/plan.py
    # measures with SmolLM2-135M: 1.3 MiB of heap for a MiB of tensors.
    "cpu": Overhead(fixed=770 << 20, share=0.30),
}


@dataclass(frozen=True)
class Phase:
    """One phase of a run at its own peak: bytes of tensors by part."""

    name: Literal["load", "rollout", "update"]
    parts: Counter[str]

    @property
    def total(self) -> int:
        """Bytes of all tensors."""
        return self.parts.total()


@dataclass(frozen=True)
class MemoryPlan:
    """What a recipe holds on a device.

    `parameters` are those of the base model by part; `batch`, `micro_batch` the largest ones; `kept_weights`,
    `kept_buffers` bytes that rollouts on a GPU keep where there is room, for speed, and that no phase counts;
    `rollout_beside_kept` bytes of tensors in a rollout that finds the buffers of an earlier one;
    `copy_from_rows` the rows from which on rollouts multiply by copies of the weights. The budgets are the
    recipe's, or those that were chosen for the device.
    """

    device: Device
    parameters: Counter[str]
    adapter_parameters: int
    batch: Batch
    micro_batch: Batch
    phases: Sequence[Phase]
    kept_weights: int = 0
    kept_buffers: int = 0
    rollout_beside_kept: int = 0
    copy_from_rows: int | None = None
    tokens_per_batch: int | None = None
    tokens_per_micro_batch: int | None = None

    @property
    def tensors(self) -> int:
        """Bytes of tensors at the peak, with nothing kept for speed."""
        return max(phase.total for phase in self.phases)

    @property
    def peak(self) -> int:
        """Bytes that the device must have; on a CPU the process's resident memory."""
        return OVERHEADS[self.device].with_tensors(self.tensors)

    def fits(self, gib: float) -> bool:
        """Whether a device with so many GiB holds it."""
        return self.peak <= gib * GIB

    @property
    def smallest_card(self) -> int | None:
        """GiB of the smallest GPU of `CARDS_GIB` that holds it."""
        return next((gib for gib in CARDS_GIB if self.fits(gib)), None)

    def peak_on(self, total: int) -> int:
        """Bytes in use on a GPU with `total` bytes, with all that it keeps for speed."""
        return OVERHEADS[self.device].with_tensors(self.tensors_on(total))

    def tensors_on(self, total: int) -> int:
        """Bytes of tensors at the peak on a GPU with `total` bytes, with all that it keeps for speed.

        What torch.cuda.max_memory_allocated shows.
        """
        bytes_of = {phase.name: phase.total for phase in self.phases}
        rows = self.batch.count * self.batch.generations
        free = total - OVERHEADS[self.device].fixed - self._standing()
        pays = copy_pays(rows, self.copy_from_rows, self.kept_weights, free, total)
        weights = self.kept_weights if pays else 0
        peak = max(bytes_of["load"], bytes_of["rollout"] + weights, bytes_of["update"])
        kept = self.kept_buffers + weights
        if not fits_beside_updates(kept, peak, total):
            return peak
        return max(peak, bytes_of["update"] + kept, self.rollout_beside_kept + weights)

    def _standing(self) -> int:
        """Bytes that are there from beginning to end."""
        (update,) = [phase for phase in self.phases if phase.name == "update"]
        return sum(update.parts[part] for part in (*PARTS, REWARDS, ADAPTER, OPTIMIZER))
