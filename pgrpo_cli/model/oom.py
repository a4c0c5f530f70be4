"""Going on when the device is out of memory: the same work again, in smaller pieces.

Neither a completion nor the gradient of a step depends on how completions are put together, but for rounding:
running out of memory costs time and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from pgrpo_cli.errors import TrainingError
from pgrpo_cli.pretrained.memory import give_back, is_out_of_memory, release_memory

Content = TypeVar("Content")
Result = TypeVar("Result")


@dataclass
class TokenBudget:
    """The most tokens that are computed at a time, lowered for good when they do not fit.

    `name` is what holds the tokens, in the plural; `remedy` helps where not even one completion fits; `tell`
    gets a line each time that the budget is lowered.
    """

    tokens: int
    name: str
    remedy: str
    tell: Callable[[str], None]

    def lower(self, failed: int) -> None:
        """Halve the budget, and go on until `failed` tokens, which did not fit, are too many."""
        self.tokens //= 2
        while self.tokens >= failed:
            self.tokens //= 2
        self.tell(f"out of memory; {self.name} now hold at most {self.tokens} tokens")


@dataclass(frozen=True)
class Piece(Generic[Content]):
    """A part of the work: the completions in it, and the number of tokens it takes."""

    content: Content
    completions: Sequence[int]
    tokens: int


def in_pieces(
    completions: Sequence[int],
    cut: Callable[[Sequence[int], int], Iterable[Piece[Content]]],
    compute: Callable[[Content], Result],
    budget: TokenBudget,
    spare: Callable[[], bool] = give_back,
) -> Iterator[Result]:
    """Compute all completions piece by piece, as `cut(completions, tokens)` cuts them; yields each result.

    A piece that does not fit is tried once more when `spare` has given back memory that is kept for speed
    alone (it says whether there was any); else it lowers the budget, and all that is left is cut anew.
    `compute` must leave nothing behind when it runs out of memory. Raises TrainingError where one completion
    alone does not fit.
    """
    left = list(cut(completions, budget.tokens))
    spared = False
    while left:
        piece = left[0]
        fits = True
        try:
            result = compute(piece.content)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            fits = False
        if fits:
            left.pop(0)
            spared = False
            yield result
            continue
        # Not in the except block: as long as that lasts, the traceback holds the failed attempt's tensors.
        spared, more = True, not spared and spare()
        release_memory()
        if more:
            continue
        if len(piece.completions) == 1:
            raise TrainingError(
                f"out of memory: one completion with its prompt, {piece.tokens} tokens, does not fit",
                remedy=budget.remedy,
            )
        budget.lower(piece.tokens)
        left = list(cut([n for piece in left for n in piece.completions], budget.tokens))
