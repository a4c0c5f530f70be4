"""What `eval` and `compare` print: progress, tables and sentences for a terminal, JSON for a program."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .terminal import note, say, show_table, stderr, stdout

if TYPE_CHECKING:
    from pgrpo_cli.stats.comparison import Comparison
    from pgrpo_cli.stats.result_types import EvalResult

# Who is at work -> the label of its bar, and its line where there is no terminal.
_BARS = {
    "base": ("base model, prompts", "base model: sampling {total} prompts"),
    "tuned": ("tuned model, prompts", "tuned model: sampling {total} prompts"),
    "judge": ("judge, pairs", "judge: comparing {total} pairs, each in both orders"),
    "base tasks": ("base model, lm-eval requests", "base model: {total} requests of lm-eval"),
    "tuned tasks": ("tuned model, lm-eval requests", "tuned model: {total} requests of lm-eval"),
}


def result_json(result: EvalResult, **paths: Path) -> str:
    """The numbers without those of single completions, which the result file has, and where the files are."""
    found = json.loads(result.model_dump_json(exclude={"rows": True, "prompts": True, "judged": {"pairs"}}))
    return json.dumps({**found, **{key: str(path) for key, path in paths.items()}}, indent=2)


def show_result(result: EvalResult) -> None:
    """Print the tables of an evaluation and what they say."""
    from pgrpo_cli.report.more_tables import judged_table, overview_table, tasks_table
    from pgrpo_cli.report.sentences import eval_sentence, judged_sentence, matrix_sentence, tasks_sentence
    from pgrpo_cli.report.tables import eval_table, to_rich

    tables, sentences = [eval_table(result), overview_table(result)], [eval_sentence(result)]
    if result.matrix is not None:
        sentences.append(matrix_sentence(result.matrix))
    if result.judged is not None:
        tables.append(judged_table(result.judged))
        sentences.append(judged_sentence(result.judged))
    if result.lm_eval is not None:
        tables.append(tasks_table(result.lm_eval))
        sentences.append(tasks_sentence(result.lm_eval))
    for table in tables:
        show_table(to_rich(table, stdout.width))
    for line in (*sentences, *result.notes):
        say(line)


def show_comparison(comparison: Comparison) -> None:
    """Print the tables of a comparison, one per run beside the reference, and what they say."""
    from pgrpo_cli.report.sentences import comparison_sentence, grouping_sentence, learning_sentence
    from pgrpo_cli.report.tables import comparison_table, learning_table, to_rich

    runs = list(dict.fromkeys(pair.run for pair in comparison.pairs))
    for run in runs:
        show_table(to_rich(comparison_table(comparison, run), stdout.width))
    sentences = [comparison_sentence(comparison, run) for run in runs]
    how_fast = learning_table(comparison, macro_only=True)
    if how_fast is not None:
        show_table(to_rich(how_fast, stdout.width))
        sentences.append(learning_sentence(comparison))
    for line in (*sentences, grouping_sentence(comparison), *comparison.notes):
        say(line)


class Shown(Protocol):
    """Takes who is at work, what is done, and how much there is."""

    def __call__(self, who: str, done: int, total: int, /) -> None: ...


@contextmanager
def shown_progress(*, quiet: bool) -> Iterator[Shown]:
    """A bar for each at work on a terminal, a line elsewhere, nothing if quiet."""
    if quiet:
        yield lambda who, done, total: None
    elif not stderr.is_terminal:
        yield lambda who, done, total: None if done else note(_BARS[who][1].format(total=total))
    else:
        from rich.progress import Progress as Bars

        bars, tasks = Bars(console=stderr, transient=True), dict[str, Any]()

        def show(who: str, done: int, total: int) -> None:
            # Only now: until something is at work nothing is drawn.
            bars.start()
            if done == 0 or who not in tasks:
                tasks[who] = bars.add_task(_BARS[who][0], total=total)
            bars.update(tasks[who], completed=done)

        try:
            yield show
        finally:
            bars.stop()
