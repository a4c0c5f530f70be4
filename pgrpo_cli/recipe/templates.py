"""Jinja of a recipe and of a model, and a recipe's patterns, bounded as a whole: by a process with limits.

A recipe, a model and rows may all come from a stranger. template_worker.py says what a template can do and
why nothing that it does takes much time or memory. One worker serves this process; one that a template
ends is replaced at the next request.
"""

from __future__ import annotations

import atexit
import errno
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

SECONDS = 3.0
"""Processor time of one rendering."""
MEMORY = 1 << 29
"""Address space of the worker, in bytes. macOS does not enforce this limit."""
_IN_FLIGHT = 1 << 15
"""Bytes of requests that are sent before answers are read: they fit into a pipe, so that no side waits for
the other one to read."""
_WORKER = Path(__file__).with_name("template_worker.py")


class TemplateProblem(Exception):
    """Why a template or pattern cannot be used or fails on its variables; the message is the whole reason.

    `exhausted`: it was stopped for its time or memory, so that trying it on other variables may take as long.
    """

    def __init__(self, reason: str, *, exhausted: bool = False) -> None:
        super().__init__(reason)
        self.exhausted = exhausted


class _Jinja:
    """Checked source. Raises TemplateProblem if it is invalid.

    `variables` are the names that it takes from outside.
    """

    kind: ClassVar[str]

    def __init__(self, source: str) -> None:
        self._source = source
        self.variables = frozenset(_ask(self.kind, source, None))


class Template(_Jinja):
    """Text with `{{ }}` and `{% %}`, where what is missing is a problem."""

    kind = "template"

    def render(self, values: Mapping[str, Any]) -> str:
        """The rendered text. The variables are JSON values. Raises TemplateProblem."""
        return str(_ask(self.kind, self._source, values))

    def render_all(self, rows: Sequence[Mapping[str, Any]]) -> list[str | TemplateProblem]:
        """The text of each row, or its problem. Many at once take half the time that they take one by one."""
        return _worker.answers(self.kind, self._source, rows)


class ChatTemplate(Template):
    """A model's chat template, in the dialect that transformers' apply_chat_template knows."""

    kind = "chat template"


class Expression(_Jinja):
    """A single expression, without `{{` and `}}`."""

    kind = "expression"

    def evaluate(self, values: Mapping[str, Any]) -> Any:
        """Its value, a JSON value, for these variables. Raises TemplateProblem."""
        return _ask(self.kind, self._source, values)


class Pattern:
    """A regular expression of Python. Raises TemplateProblem if it is invalid."""

    def __init__(self, source: str, *, ignore_case: bool = False) -> None:
        self._kind, self._source = "pattern in any case" if ignore_case else "pattern", source
        _ask(self._kind, source, None)

    def count(self, text: str, most: int) -> int:
        """The number of matches in the text, at most `most`. Raises TemplateProblem."""
        return int(_ask(self._kind, self._source, {"text": text, "most": most}))


class _Worker:
    """The process that renders and matches."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        # A judge's rubric is rendered by the thread that asks the judge.
        self._lock = threading.Lock()

    def answers(self, kind: str, source: str, rows: Sequence[Mapping[str, Any] | None]) -> list[Any]:
        """The answer to a request for each row: a value, or a TemplateProblem."""
        found: list[Any] = []
        lines: list[bytes] = []
        for row in rows:
            try:
                line = json.dumps([kind, source, row if row is None else dict(row)]).encode() + b"\n"
            except (TypeError, ValueError, RecursionError) as error:
                found += self._exchange(lines)
                found.append(TemplateProblem(f"its variables are no JSON values: {error}"))
                lines = []
                continue
            if lines and sum(map(len, lines)) + len(line) > _IN_FLIGHT:
                found += self._exchange(lines)
                lines = []
            lines.append(line)
        return found + self._exchange(lines)

    def _exchange(self, lines: Sequence[bytes]) -> list[Any]:
        """The answers to requests sent at once. What follows one that ends the worker is sent again."""
        found: list[Any] = []
        with self._lock:
            while len(found) < len(lines):
                try:
                    found += self._sent(lines[len(found) :])
                # Ctrl-C, too: the answer to this request must not be read as one to the next.
                except BaseException:
                    self.close()
                    raise
        return found

    def _sent(self, lines: Sequence[bytes]) -> list[Any]:
        process = self._running()
        assert process.stdin and process.stdout
        found: list[Any] = []
        with suppress(BrokenPipeError):
            process.stdin.write(b"".join(lines))
            process.stdin.flush()
        for _ in lines:
            answer = process.stdout.readline()
            if not answer.endswith(b"\n"):
                process.kill()
                return [*found, TemplateProblem(_why(process.wait()), exhausted=True)]
            said = json.loads(answer)
            found.append(TemplateProblem(said["problem"]) if "problem" in said else said["value"])
        return found

    def _running(self) -> subprocess.Popen[bytes]:
        # -P keeps its directory out of the import path. Its own session keeps Ctrl-C from reaching it.
        command = [sys.executable, "-P", str(_WORKER), str(SECONDS), str(MEMORY)]
        process = self._process
        if process is None or process.args != command or process.poll() is not None:
            self.close()
            self._process = process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        return process

    def close(self) -> None:
        """End the process; the next request starts another."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def _ask(kind: str, source: str, values: Mapping[str, Any] | None) -> Any:
    """The answer to one request. Raises TemplateProblem."""
    (answer,) = _worker.answers(kind, source, [values])
    if isinstance(answer, TemplateProblem):
        raise answer
    return answer


def _why(status: int) -> str:
    """What the status of a worker that has ended says about what it worked on."""
    if status == -signal.SIGPROF:
        return f"stopped after {SECONDS:g} seconds of processor time; it must not take longer"
    if status == errno.ENOMEM:
        return f"stopped for needing more than {MEMORY >> 20:,} MiB of memory"
    return f"ended the process that renders templates (status {status})"


_worker = _Worker()
atexit.register(_worker.close)
