"""findings.json: what the diagnosis has said of a run, so that one that goes on does not repeat it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pgrpo_cli.data.strict_json import read_json
from pgrpo_cli.report.diagnosis import Finding

from .files import write_json
from .run import RunDirectory

Key = tuple[str, str | None, str | None]


def read_said(run: RunDirectory) -> list[dict[str, Any]]:
    """The findings said so far, in order, each with its `step`; none where the file is missing or damaged."""
    try:
        found = read_json(run.findings_path)
        if isinstance(found, list) and all(isinstance(part, str | None) for e in found for part in _key(e)):
            return found
        return []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def not_yet_said(findings: Sequence[Finding], said: Sequence[dict[str, Any]]) -> list[Finding]:
    """Those of `findings` that are not in `said`."""
    keys = {_key(entry) for entry in said}
    return [finding for finding in findings if finding.key not in keys]


def record_said(
    run: RunDirectory, said: Sequence[dict[str, Any]], new: Sequence[Finding], step: int
) -> list[dict[str, Any]]:
    """Add `new`, said at `step`, to the file; returns all of it. Raises OSError where the disk refuses."""
    together = [*said, *({"step": step, **finding.as_json()} for finding in new)]
    write_json(run.findings_path, together)
    return together


def _key(entry: dict[str, Any]) -> Key:
    return entry["rule"], entry["preference_group"], entry["part"]
