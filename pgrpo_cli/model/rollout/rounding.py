"""The shapes of a decode step: those of the batch exactly, or rounded up to a few bucket sizes.

On a CPU a new shape costs nothing, so each step is as small as it can be. On CUDA each new shape costs the
capture of a graph. There the number of prompts, their length and the length of the completions are rounded up
to bucket sizes; what is added is masked or discarded. Neither way changes a completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_LEAVING_SHARE = 8
"""With exact shapes rows leave once one in so many has finished: a cache is copied when that pays."""


def bucket(count: int, *, smallest: int = 1, per_octave: int = 2) -> int:
    """The smallest bucket size of at least `count` (> 0). The sizes begin with `smallest`, and there are
    `per_octave` of them, a power of two, to every doubling.

    With the defaults 1, 2, 3, 4, 6, 8, 12, 16, 24, ...: what is rounded up grows by less than a half.
    """
    if count <= smallest:
        return smallest
    step = max(1, (1 << (count - 1).bit_length() - 1) // per_octave)
    return -(-count // step) * step


@dataclass(frozen=True)
class KeptRows:
    """The prompts and rows that are decoded on, as indices into the batch.

    The last `padding_rows` rows and their prompts are copies of others that fill the bucket. Their output is
    discarded.
    """

    prompts: list[int]
    rows: list[int]
    padding_rows: int = 0


@dataclass(frozen=True)
class Rounding:
    """`check_every`: tokens between two looks at who has finished. On CUDA a look waits for the device."""

    exact: bool
    check_every: int

    def own_length(self, tokens: int, capacity: int) -> int:
        """Columns of the completions' own keys to attend to when `tokens` of `capacity` are stored."""
        return tokens if self.exact else min(capacity, bucket(tokens, smallest=64))

    def prefix_length(self, tokens: int) -> int:
        """Columns to hold prompts of up to `tokens` tokens."""
        return tokens if self.exact else bucket(tokens, smallest=64, per_octave=8)

    def kept_rows(
        self, places_M: Sequence[int], going_on_M: Sequence[bool], num_generations: int
    ) -> KeptRows | None:
        """The rows to keep when at least one has not finished; None: the batch stays as it is.

        `places_M` are the rows' places in the [P·G] grid of prompts and completions, ascending.
        """
        if self.exact:
            rows = [row for row, going_on in enumerate(going_on_M) if going_on]
            if (len(places_M) - len(rows)) * _LEAVING_SHARE < len(places_M):
                return None
            return KeptRows(sorted({places_M[row] // num_generations for row in rows}), rows)
        alive = sorted(
            {p // num_generations for p, going_on in zip(places_M, going_on_M, strict=True) if going_on}
        )
        target = bucket(len(alive))
        if target * num_generations >= len(places_M):
            return None
        num_padding = target - len(alive)
        prompts = alive + alive[:1] * num_padding
        rows = [p * num_generations + g for p in prompts for g in range(num_generations)]
        return KeptRows(prompts, rows, num_padding * num_generations)


EXACT = Rounding(exact=True, check_every=1)
"""For devices on which a new shape costs nothing and the host waits for every step anyhow."""

COARSE = Rounding(exact=False, check_every=16)
"""For captured graphs. Sixteen steps of a few milliseconds hide the wait for the device and its restart."""
