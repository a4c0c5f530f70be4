"""When the device runs out of memory, the same work is repeated in smaller pieces.

Neither a completion nor the gradient of a step depends on how completions are batched, except for rounding.
Running out of memory therefore costs time and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from pgrpo_cli.errors import TrainingError
from pgrpo_cli.pretrained.memory import is_out_of_memory, release_caches, release_memory

Content = TypeVar("Content")
Result = TypeVar("Result")


@dataclass
class TokenBudget:
    """The maximum number of tokens that are computed at a time. It is lowered when they do not fit, and stays
    lowered for the rest of the run.

    `name` says in the plural what holds the tokens, for the message. `remedy` is shown if not even one
    completion fits. `on_note` receives a message each time the budget is lowered.
    """

    tokens: int
    name: str
    remedy: str
    on_note: Callable[[str], None]

    def lower(self, failed: int) -> None:
        """Halve the budget until it is below `failed`, the number of tokens that did not fit."""
        self.tokens //= 2
        while self.tokens >= failed:
            self.tokens //= 2
        self.on_note(f"out of memory; {self.name} now hold at most {self.tokens} tokens")


@dataclass(frozen=True)
class Piece(Generic[Content]):
    """A part of the work: the indices of its completions, and the number of tokens it computes."""

    content: Content
    completions: Sequence[int]
    tokens: int


def in_pieces(
    completions: Sequence[int],
    cut: Callable[[Sequence[int], int], Iterable[Piece[Content]]],
    compute: Callable[[Content], Result],
    budget: TokenBudget,
    spare: Callable[[], bool] = release_caches,
) -> Iterator[Result]:
    """Compute all completions in the pieces that `cut(completions, tokens)` makes; yield each result.

    If a piece does not fit, `spare` is called. It releases memory that is kept only for speed and returns
    whether there was any. If there was, the piece is tried once more. Otherwise the budget is lowered and the
    remaining completions are cut again. `compute` must have no side effects when it runs out of memory, since
    it is called again. Raises TrainingError if a single completion does not fit.
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
        # Outside of the except block, because inside it the traceback still references the tensors of the
        # failed attempt, so their memory could not be released.
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
