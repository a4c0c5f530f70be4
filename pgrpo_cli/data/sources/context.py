"""What a source is told besides its own section."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ReadContext:
    """`recipe_dir` is where relative paths start; `seed` the recipe's.

    `groups_from_rows`: whether a row must name its preference group, because nothing else will.
    `max_rejected_share`: the share of broken rows that is no reason to stop.
    """

    recipe_dir: Path
    seed: int = 0
    groups_from_rows: bool = True
    max_rejected_share: float = 0.05
