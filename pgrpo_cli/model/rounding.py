"""How closely the shapes of a decode step follow the batch: exactly, or in steps that bound their number.

Where every shape costs nothing, a step is as small as it can be. Where a shape costs a captured graph, the
shapes climb a ladder: the completions' own length and the prompts' length are rounded up and masked, and rows
leave in whole prompts, at a rung. Neither changes a completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_LEAVING_SHARE = 8
"""With exact shapes rows leave once one in so many has finished: a cache is copied when that pays."""


def rung(count: int, *, smallest: int = 1, per_octave: int = 2) -> int:
    """The least rung that holds `count` (> 0): `smallest`, then `per_octave` rungs to every doubling.

    With the defaults 1, 2, 3, 4, 6, 8, 12, 16, 24, ...: what is rounded up grows by less than a half.
    """
    if count <= smallest:
        return smallest
    step = max(1, (1 << (count - 1).bit_length() - 1) // per_octave)
    return -(-count // step) * step


@dataclass(frozen=True)
class Staying:
    """What stays of a batch: the prompts and the rows, as indices into the batch.

    The last `fillers` rows and their prompts stand there a second time, to fill a rung; nobody reads what
    they make.
    """

    prompts: list[int]
    rows: list[int]
    fillers: int = 0


@dataclass(frozen=True)
class Rounding:
    """`check_every`: tokens between two looks at who has finished. On CUDA a look waits for the device."""

    exact: bool
    check_every: int

    def own_length(self, tokens: int, capacity: int) -> int:
        """Columns of the completions' own keys to attend to when `tokens` of `capacity` are stored."""
        return tokens if self.exact else min(capacity, rung(tokens, smallest=64))

    def prefix_length(self, tokens: int) -> int:
        """Columns to hold prompts of up to `tokens` tokens."""
        return tokens if self.exact else rung(tokens, smallest=64, per_octave=8)

    def staying(
        self, places_M: Sequence[int], going_on_M: Sequence[bool], num_generations: int
    ) -> Staying | None:
        """Who stays when at least one row goes on; None: leave the batch as it is.

        `places_M` are the rows' places in the [P·G] grid of prompts and completions, ascending.
        """
        if self.exact:
            rows = [row for row, going_on in enumerate(going_on_M) if going_on]
            if (len(places_M) - len(rows)) * _LEAVING_SHARE < len(places_M):
                return None
            return Staying(sorted({places_M[row] // num_generations for row in rows}), rows)
        alive = sorted(
            {p // num_generations for p, going_on in zip(places_M, going_on_M, strict=True) if going_on}
        )
        target = rung(len(alive))
        if target * num_generations >= len(places_M):
            return None
        fillers = target - len(alive)
        prompts = alive + alive[:1] * fillers
        rows = [p * num_generations + g for p in prompts for g in range(num_generations)]
        return Staying(prompts, rows, fillers * num_generations)


EXACT = Rounding(exact=True, check_every=1)
"""For devices on which a new shape costs nothing and the host waits for every step anyhow."""

COARSE = Rounding(exact=False, check_every=16)
"""For captured graphs. Sixteen steps of a few milliseconds hide the wait for the device and its restart."""
