"""The processes that a launcher such as torchrun has started for one run."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from pgrpo_cli.errors import PgrpoError

T = TypeVar("T")


def rank_of_process() -> int:
    """The number of this process among those of its launcher; 0 without one."""
    return int(os.environ.get("RANK", "0"))


def number_of_processes() -> int:
    """How many processes the launcher has started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@dataclass(frozen=True)
class World:
    """`size` processes, of which this one is number `rank`. The first one writes the run's files."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the first process."""
        return self.rank == 0

    def first(self, work: Callable[[], T]) -> T:
        """What `work` returns in the first process, in all of them; the others wait for it.

        If it raises there, it raises there, and the others end without a message, with its exit code.
        """
        if self.size == 1:
            return work()
        if not self.leads:
            result, exit_code = self._told()
            if exit_code is not None:
                raise SystemExit(exit_code)
            return result  # type: ignore[no-any-return]
        try:
            result = work()
        except BaseException as error:
            self._tell((None, error.exit_code if isinstance(error, PgrpoError) else 1))
            raise
        self._tell((result, None))
        return result

    def stop(self, stopped: PgrpoError) -> NoReturn:
        """Raise `stopped` in the first process, and end the others without a message once it has come here: a
        launcher that sees one process end kills the rest, which may still be saving.
        """

        def raised() -> NoReturn:
            raise stopped

        raise self.first(raised)

    def _tell(self, message: object) -> None:
        import torch

        torch.distributed.broadcast_object_list([message])

    def _told(self) -> Any:
        import torch

        heard: list[Any] = [None]
        torch.distributed.broadcast_object_list(heard)
        return heard[0]
