"""What rollouts on a CUDA device keep between batches and, where there is room, between steps of a run.

Capturing a graph costs a step to warm up and the recording of thousands of kernels, so graphs are kept from
step to step. Everything at the addresses that they were recorded with is kept too: the buffers of decoding
and, for NF4 models, the dequantized weights. An update needs memory as well, and how much is known only after
the first one. So the first update gets all of the memory, and later ones what the rule in
`fits_beside_updates` leaves.
"""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import nn

from pgrpo_cli.pretrained.memory import ask_in_need

from ..nf4 import nf4_addresses
from .buffers import StaticBuffers
from .graphs import CudaRecorder, Graphs, Recorder, Runner, Step


def run_plainly(key: Hashable, step: Step) -> None:
    """Run a step as it is."""
    step()


class Workspace:
    """Buffers, graphs and dequantized weights of one policy's rollouts. Empty and unused on a CPU."""

    def __init__(self, recorder: Recorder | None = None) -> None:
        self.buffers = StaticBuffers()
        self.graphs = Graphs(recorder or CudaRecorder())
        self.weights: dict[int, torch.Tensor] = {}
        self._seen_an_update = False
        ask_in_need(self)

    def runner(self, model: nn.Module, conditions: Hashable) -> Runner:
        """What runs the steps of a batch. `conditions`: what they depend on besides shapes and addresses.

        To be asked when all buffers of the batch are in place.
        """
        copies = tuple(copy.data_ptr() for copy in self.weights.values())
        addresses = (weight_addresses(model), copies, self.buffers.addresses())
        return self.graphs.runner((conditions, adapter_is_on(model)), addresses)

    def bytes(self) -> int:
        """Memory held, the graphs' own aside."""
        return self.buffers.bytes() + sum(w.numel() * w.element_size() for w in self.weights.values())

    def release(self) -> bool:
        """Give all memory back; whether there was any. Safe between any two steps of a rollout, which goes on
        by packed weights then.
        """
        held = self.bytes() > 0
        self.graphs.clear()
        self.buffers.clear()
        self.weights.clear()
        return held

    def make_room(self, device: torch.device) -> None:
        """Called before an update: keep what fits beside it, judging by the updates so far."""
        if device.type != "cuda":
            return
        peak = torch.cuda.max_memory_allocated(device)
        total = torch.cuda.get_device_properties(device).total_memory
        if not self._seen_an_update or not fits_beside_updates(self.bytes(), peak, total):
            self.release()
        self._seen_an_update = True


def fits_beside_updates(held: int, peak: int, total: int) -> bool:
    """Whether `held` bytes may stay while an update runs on a device with `total` bytes.

    `peak`: the most that was ever allocated, by rollouts or updates, which bounds what an update needs from
    above. A fifth of the device is left for the allocator's gaps, the graphs and a longer batch than any yet.
    """
    return held + peak <= total - total // 5


def weight_addresses(model: nn.Module) -> tuple[int, ...]:
    """Where everything lies that a forward pass reads."""
    tensors = [*model.parameters(), *model.buffers()]
    return (*(tensor.data_ptr() for tensor in tensors), *nf4_addresses(model))


def adapter_is_on(model: nn.Module) -> bool:
    """Whether the adapter takes part in forward passes: False within `Policy.base`."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return not any(m.disable_adapters for m in model.modules() if isinstance(m, BaseTunerLayer))
