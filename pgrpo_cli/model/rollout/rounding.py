"""The shapes of a decode step: exactly those of the batch, or rounded up to a few bucket sizes.

On a CPU a new shape costs nothing, so each step is as small as possible. On CUDA each new shape costs the
capture of a graph. There the number of prompts, their length and the length of the completions are rounded up
to bucket sizes, and the padding is masked or discarded. Neither way changes a completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_LEAVING_SHARE = 8
"""With exact shapes, finished rows are dropped once they are at least one in this many. Dropping rows copies
the cache, which does not pay for fewer.
"""


def bucket(count: int, *, smallest: int = 1, per_octave: int = 2) -> int:
    """The smallest bucket size that is at least `count` (> 0). Sizes start at `smallest`. Between a power of
    two and the next one there are `per_octave` sizes, which must be a power of two too.

    With the defaults the sizes are 1, 2, 3, 4, 6, 8, 12, 16, 24, ..., so padding adds less than a half.
    """
    if count <= smallest:
        return smallest
    step = max(1, (1 << (count - 1).bit_length() - 1) // per_octave)
    return -(-count // step) * step


@dataclass(frozen=True)
class KeptRows:
    """The prompts and rows that stay in the batch, as indices into it.

    The last `padding_rows` rows and their prompts are copies of others. They fill the bucket, and their
    output is discarded.
    """

    prompts: list[int]
    rows: list[int]
    padding_rows: int = 0


@dataclass(frozen=True)
class Rounding:
    """How shapes are rounded. `check_every`: how many tokens are decoded between two checks for completions
    that have finished. On CUDA a check is a host synchronisation.
    """

    exact: bool
    check_every: int

    def own_length(self, tokens: int, capacity: int) -> int:
        """How many columns of the completions' own keys a step attends to when `tokens` are stored."""
        return tokens if self.exact else min(capacity, bucket(tokens, smallest=64))

    def prefix_length(self, tokens: int) -> int:
        """How many columns are allocated for prompts of up to `tokens` tokens."""
        return tokens if self.exact else bucket(tokens, smallest=64, per_octave=8)

    def kept_rows(
        self, places_M: Sequence[int], going_on_M: Sequence[bool], num_generations: int
    ) -> KeptRows | None:
        """The rows to keep, if at least one row has not finished; None: the batch stays as it is.

        `places_M` are the places of the rows in the [P·G] grid of prompts and completions, ascending. With
        rounded shapes a prompt keeps all of its rows until all of them have finished, so the grid stays full.
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
"""For CPUs, on which a new shape costs nothing and the host computes every step itself."""

COARSE = Rounding(exact=False, check_every=16)
"""For CUDA graphs. Sixteen steps of a few milliseconds make the cost of a host synchronisation small."""
