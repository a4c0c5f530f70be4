"""The memory plan of a run: bytes by part and phase, the peak, and the GPUs that it fits on."""

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
"""Memory sizes of common GPUs."""

ADAPTER, GRADIENTS, OPTIMIZER = "adapter", "gradients", "optimizer state"
STEP, LOADING, REWARDS = "optimizer step", "loading", "reward models"
ORDER = (
    *PARTS, REWARDS, ADAPTER, OPTIMIZER, GRADIENTS, LOADING, COPIES, CACHE, ACTIVATIONS, MASK, LOGITS, STEP
)  # fmt: skip
"""The parts, in the order of a table."""


@dataclass(frozen=True)
class Overhead:
    """The memory of a process besides its tensors: `fixed` bytes, and `share` times the tensors' bytes."""

    fixed: int
    share: float

    def with_tensors(self, tensors: int) -> int:
        """Bytes of the tensors and of the overhead."""
        return self.fixed + round((1 + self.share) * tensors)


OVERHEADS: dict[Device, Overhead] = {
    # Fixed: the CUDA context with its kernels. Share: fragmentation of the caching allocator. Both estimated.
    "cuda": Overhead(fixed=GIB // 2, share=0.05),
    # Fixed: Python, the libraries and their caches. Share: fragmentation of the heap. Both fitted to what
    # benchmarks/plan.py measures with SmolLM2-135M: 1.3 MiB of heap per MiB of tensors.
    "cpu": Overhead(fixed=770 << 20, share=0.30),
}


@dataclass(frozen=True)
class Phase:
    """One phase of a run: the bytes of its tensors by part, at the peak of the phase."""

    name: Literal["load", "rollout", "update"]
    parts: Counter[str]

    @property
    def total(self) -> int:
        """Bytes of all tensors."""
        return self.parts.total()


@dataclass(frozen=True)
class MemoryPlan:
    """The memory that a recipe needs on a device.

    - `parameters`: number of parameters of the base model by part.
    - `batch`, `micro_batch`: the largest ones of a run.
    - `kept_weights`, `kept_buffers`: bytes that rollouts on a GPU keep for speed if they fit. No phase counts
      them.
    - `rollout_beside_kept`: bytes of tensors in a rollout while the buffers of an earlier one still exist.
    - `copy_from_rows`: from how many rows on rollouts multiply by dequantized copies of the weights.
    - `tokens_per_batch`, `tokens_per_micro_batch`: the recipe's budgets, or those chosen for the device.
    - `unquantized`: a sentence about weights that stay as they are although the recipe quantizes.
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
    unquantized: str | None = None

    @property
    def tensors(self) -> int:
        """Bytes of tensors at the peak if nothing is kept for speed."""
        return max(phase.total for phase in self.phases)

    @property
    def peak(self) -> int:
        """Bytes that the device must have; on a CPU the resident memory of the process."""
        return OVERHEADS[self.device].with_tensors(self.tensors)

    def fits(self, gib: float) -> bool:
        """Whether the run fits on a device with so many GiB."""
        return self.peak <= gib * GIB

    @property
    def smallest_card(self) -> int | None:
        """GiB of the smallest GPU of `CARDS_GIB` that the run fits on, or None."""
        return next((gib for gib in CARDS_GIB if self.fits(gib)), None)

    def peak_on(self, total: int) -> int:
        """Bytes in use at the peak on a GPU with `total` bytes, including what is kept for speed."""
        return OVERHEADS[self.device].with_tensors(self.tensors_on(total))

    def tensors_on(self, total: int) -> int:
        """Bytes of tensors at the peak on a GPU with `total` bytes, including what is kept for speed.

        Predicts torch.cuda.max_memory_allocated.
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
        """Bytes of tensors that exist during the whole run."""
        (update,) = [phase for phase in self.phases if phase.name == "update"]
        return sum(update.parts[part] for part in (*PARTS, REWARDS, ADAPTER, OPTIMIZER))
