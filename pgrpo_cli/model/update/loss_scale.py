"""Loss scaling for float16, so that small gradients do not underflow to 0.

The smallest positive number of float16 is 6e-8. Without scaling every thirteenth element of the gradient of a
LoRA adapter is lost. The scale is a power of two, so dividing the gradient by it in float32 is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

FIRST_SCALE = 1024.0


@dataclass
class LossScale:
    """The factor of the loss. When a gradient overflows it is halved for the rest of the run, down to 1.

    It is saved in checkpoints, so that a resumed run computes the same as an uninterrupted one.
    """

    value: float = FIRST_SCALE

    def halve(self) -> bool:
        """Halve the factor; False if it is 1 already."""
        above_one = self.value > 1
        self.value = max(1.0, self.value / 2)
        return above_one

    def restore(self, value: object) -> None:
        """Set the value that was saved in a checkpoint (None: the first one).

        Raises ValueError for an impossible value.
        """
        if value is None:
            value = FIRST_SCALE
        # `frexp` gives 0.5 as the mantissa of exactly the powers of two.
        if type(value) is not float or not 1 <= value <= FIRST_SCALE or math.frexp(value)[0] != 0.5:
            raise ValueError(f"loss_scale is {value!r}")
        self.value = value


def scale_in(dtype: torch.dtype, scale: LossScale) -> LossScale:
    """The scale for a model that computes in `dtype`: only float16 needs one."""
    return scale if dtype == torch.float16 else LossScale(1.0)
