"""What looks broken and is not: the questions asked most, answered where they come up."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .finding import shown
from .view import WINDOW_STEPS, RunView

LOSS_NEAR_ZERO = 0.02
"""A loss that a reader takes for 0, as printed."""


def reassurances(view: RunView) -> Iterator[str]:
    """Sentences about numbers of this run that are as they should be."""
    loss, norm = view.metrics.latest("loss", WINDOW_STEPS), view.metrics.latest("grad_norm", WINDOW_STEPS)
    if len(loss) and len(norm) and np.median(norm) > 0:
        middle = float(np.median(loss))
        if abs(middle) <= LOSS_NEAR_ZERO:
            yield (
                f"A loss near 0 (median {shown(middle)}) is normal, from the first step on: it is about "
                "minus the mean advantage, which the normalisation keeps near 0, whatever is learnt. The "
                f"gradient is not 0 (median norm {shown(float(np.median(norm)))}). Watch the reward instead."
            )
        elif middle < 0:
            yield (
                f"A loss below 0 (median {shown(middle)}) is normal: it is about minus the mean advantage, "
                "and no measure of progress. Watch the reward instead."
            )
    kl = view.metrics.earliest("kl", 1)
    if len(kl) and kl[0] < 1e-6 and view.step > 1:
        yield "A KL of 0 at the first step is normal: the adapter begins as nothing."
