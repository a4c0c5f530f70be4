"""Measurements made in processes of their own. A process that dies is a result of that measurement: what was
measured before it, and what comes after, must not be lost with it.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FAILED = "failed"
"""The key of a measurement that could not be made; its value says why."""


def output_of(command: Sequence[str], **options: Any) -> tuple[str, str | None]:
    """(what a process prints on standard output, None or why it failed); progress goes to the terminal."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, **options)
    return done.stdout, _why(done.returncode)


def measured_by(command: Sequence[str], **options: Any) -> dict[str, Any]:
    """The JSON object on the last line that a process prints, or `{"failed": why}`."""
    output, why = output_of(command, **options)
    if why is None:
        try:
            found = json.loads(output.strip().splitlines()[-1])
            if isinstance(found, dict):
                return found
        except (ValueError, IndexError):
            pass
        why = "it printed no result"
    return {FAILED: why}


def keep(path: Path | None, results: Any) -> None:
    """Write everything measured so far; called after each measurement. None: nothing is kept."""
    if path is not None:
        path.write_text(json.dumps(results, indent=2) + "\n")


def _why(code: int) -> str | None:
    if code >= 0:
        return f"exit code {code}" if code else None
    name = signal.Signals(-code).name
    memory = ", as the kernel does where memory runs out" if name == "SIGKILL" else ""
    return f"ended by {name}{memory}"
