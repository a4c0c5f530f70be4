"""The factor of the loss in float16, so that small gradients do not become 0 on their way to the adapter.

Float16 knows nothing below 6e-8: unscaled, every thirteenth element of a LoRA adapter's gradient is lost. A
power of two changes nothing but the exponent, so that dividing by it afterwards, in float32, is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

FIRST_SCALE = 1024.0


@dataclass
class LossScale:
    """The factor, which a gradient that overflows halves for the rest of the run, down to 1.

    Checkpoints keep it: a run that goes on computes as an uninterrupted one.
    """

    value: float = FIRST_SCALE

    def halve(self) -> bool:
        """Halve it; whether that could be done."""
        can = self.value > 1
        self.value = max(1.0, self.value / 2)
        return can

    def restore(self, value: object) -> None:
        """Take the value of a checkpoint. Raises ValueError for one that it cannot be."""
        if type(value) is not float or not 1 <= value <= FIRST_SCALE or math.frexp(value)[0] != 0.5:
            raise ValueError(f"loss_scale is {value!r}")
        self.value = value


def scale_in(dtype: torch.dtype, scale: LossScale) -> LossScale:
    """The scale for a model that computes in `dtype`: only float16 has need of one."""
    return scale if dtype == torch.float16 else LossScale(1.0)
