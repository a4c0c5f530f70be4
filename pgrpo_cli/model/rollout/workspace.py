"""The memory that rollouts on a CUDA device keep between batches and, if it fits, between steps of a run.

Capturing a graph costs a warm-up step and the recording of thousands of kernels, so graphs are kept from step
to step. Everything at the addresses that they were recorded with must then be kept too: the buffers of
decoding and, for NF4 models, the dequantized weights. An update also needs memory, and how much is known only
after the first update. So everything is released before the first update. Before later ones it is kept if
`fits_beside_updates`.
"""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import nn

from pgrpo_cli.pretrained.memory import register_cache

from ..nf4 import nf4_addresses
from .buffers import StaticBuffers
from .graphs import CudaRecorder, Graphs, Recorder, Runner, Step


def run_eagerly(key: Hashable, step: Step) -> None:
    """Run a step without a CUDA graph."""
    step()


class Workspace:
    """Buffers, graphs and dequantized weights of one policy's rollouts. On a CPU it is empty and not used."""

    def __init__(self, recorder: Recorder | None = None) -> None:
        self.buffers = StaticBuffers()
        self.graphs = Graphs(recorder or CudaRecorder())
        self.weights: dict[int, torch.Tensor] = {}
        self._seen_an_update = False
        register_cache(self)

    def runner(self, model: nn.Module, conditions: Hashable) -> Runner:
        """A function that runs the steps of a batch. `conditions`: everything that the steps depend on
        besides shapes and addresses.

        Must be called when all buffers of the batch have been allocated, since it reads their addresses.
        """
        copies = tuple(copy.data_ptr() for copy in self.weights.values())
        addresses = (weight_addresses(model), copies, self.buffers.addresses())
        return self.graphs.runner((conditions, adapter_is_on(model)), addresses)

    def bytes(self) -> int:
        """Bytes of the buffers and weights; the graphs' own memory is not counted."""
        return self.buffers.bytes() + sum(w.numel() * w.element_size() for w in self.weights.values())

    def release(self) -> bool:
        """Release all memory, and return whether there was any. May be called between any two steps of a
        rollout, which then continues with the packed weights.
        """
        held = self.bytes() > 0
        self.graphs.clear()
        self.buffers.clear()
        self.weights.clear()
        return held

    def make_room(self, device: torch.device) -> None:
        """Called before an update: release the memory if it would not fit beside the update."""
        if device.type != "cuda":
            return
        peak = torch.cuda.max_memory_allocated(device)
        total = torch.cuda.get_device_properties(device).total_memory
        if not self._seen_an_update or not fits_beside_updates(self.bytes(), peak, total):
            self.release()
        self._seen_an_update = True


def fits_beside_updates(held: int, peak: int, total: int) -> bool:
    """Whether `held` bytes may stay while an update runs on a device with `total` bytes.

    `peak`: the largest number of bytes ever allocated, by rollouts or updates. It is an upper bound of what
    an update needs. A fifth of the device is left free for fragmentation, the graphs and longer batches to
    come.
    """
    return held + peak <= total - total // 5


def weight_addresses(model: nn.Module) -> tuple[int, ...]:
    """The memory addresses of everything that a forward pass reads."""
    tensors = [*model.parameters(), *model.buffers()]
    return (*(tensor.data_ptr() for tensor in tensors), *nf4_addresses(model))


def adapter_is_on(model: nn.Module) -> bool:
    """Whether forward passes use the adapter; they do not within `Policy.base`."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return not any(m.disable_adapters for m in model.modules() if isinstance(m, BaseTunerLayer))
