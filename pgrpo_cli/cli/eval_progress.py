"""How far an evaluation is, on standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from .terminal import note, stderr

# Who is at work -> the label of its bar, and its line where there is no terminal.
_BARS = {
    "base": ("base model, prompts", "base model: sampling {total} prompts"),
    "tuned": ("tuned model, prompts", "tuned model: sampling {total} prompts"),
    "judge": ("judge, pairs", "judge: comparing {total} pairs, each in both orders"),
    "base tasks": ("base model, lm-eval requests", "base model: {total} requests of lm-eval"),
    "tuned tasks": ("tuned model, lm-eval requests", "tuned model: {total} requests of lm-eval"),
}


class Shown(Protocol):
    """Takes who is at work, what is done, and how much there is."""

    def __call__(self, who: str, done: int, total: int, /) -> None: ...


def task_progress(shown: Shown) -> Shown:
    """The same for lm-eval's tasks, whose models are not busy with prompts."""
    return lambda who, done, total: shown(f"{who} tasks", done, total)


@contextmanager
def shown_progress(*, quiet: bool) -> Iterator[Shown]:
    """A bar for each at work on a terminal, a line elsewhere, nothing if quiet."""
    if quiet:
        yield lambda who, done, total: None
    elif not stderr.is_terminal:
        yield lambda who, done, total: None if done else note(_BARS[who][1].format(total=total))
    else:
        from rich.progress import Progress as Bars

        with Bars(console=stderr, transient=True) as bars:
            tasks: dict[str, Any] = {}

            def show(who: str, done: int, total: int) -> None:
                if done == 0 or who not in tasks:
                    tasks[who] = bars.add_task(_BARS[who][0], total=total)
                bars.update(tasks[who], completed=done)

            yield show
