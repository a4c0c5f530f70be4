"""`selfcheck`: does this machine compute what a run needs, how fast, and in how much memory."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.text import Text

from pgrpo_cli.names import nearest
from pgrpo_cli.selfcheck.catalogue import ALWAYS, BY_NAME, CHECKS

from .common import DeviceOption, JsonOption
from .terminal import SafeConsole, emit, stderr, stdout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic.fields import FieldInfo

    from pgrpo_cli.selfcheck.results import CheckResult, Found, Report

_STYLES = {"ok": "green", "failed": "bold red", "skipped": "yellow"}
_INDENT = " " * 9
_UNITS = {
    "bytes": (2**30, "GiB"),
    "bytes/s": (1e9, "GB/s"),
    "FLOP/s": (1e12, "TFLOP/s"),
    "share": (0.01, "%"),
    "s": (1, "s"),
    "ms": (1, "ms"),
}


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(selfcheck)


def _check_name(text: str) -> str:
    """Raises BadParameter for what is no check."""
    if text not in BY_NAME:
        near = nearest(text, list(BY_NAME))
        hint = f"; did you mean {near}?" if near else ""
        raise typer.BadParameter(f"--only: found '{text}'; must be one of {', '.join(BY_NAME)}{hint}")
    return text


def selfcheck(
    device: DeviceOption = None,
    shape: Annotated[
        Literal["8b", "1.7b", "tiny"] | None,
        typer.Option(
            help="Shape of the model: that of Qwen3-8B, of Qwen3-1.7B, or a small one. Default: the largest "
            "that the GPU holds; on a CPU the small one.",
            show_default=False,
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHECK",
            parser=_check_name,
            help=f"Run this check, besides {' and '.join(ALWAYS)}. Repeatable. "
            f"There are: {', '.join(BY_NAME)}.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of what --json prints, and end.")
    ] = False,
) -> None:
    """Try this machine: exactness, speed and memory of all that a run does. The models have random weights.

    It takes 8 minutes at most. The exit code is 1 when a check has failed.
    """
    from pgrpo_cli.selfcheck.results import report_of, schema_text
    from pgrpo_cli.selfcheck.runner import Checkup

    if schema:
        emit(schema_text())
        return
    names = [check.name for check in CHECKS if not only or check.name in (*ALWAYS, *only)]
    console = stderr if as_json else stdout
    started, results = time.perf_counter(), []
    with closing(Checkup(names, device or "auto", shape).results()) as coming:
        for result in coming:
            _show(result, console)
            results.append(result)
    report = report_of(results, time.perf_counter() - started)
    _summary(report, console, _again(report, device, shape))
    if as_json:
        emit(report.model_dump_json(indent=2))
    if report.failed:
        raise typer.Exit(1)


def _show(result: CheckResult, console: SafeConsole) -> None:
    """A line about the check, and below it why it failed, and what it has found."""
    head = Text.assemble(
        (f"{result.status:9}", _STYLES[result.status]),
        (f"{result.name:15}", "bold"),
        f"{result.seconds:6.1f} s  {BY_NAME[result.name].question}",
    )
    console.print(head, soft_wrap=True)
    if result.reason:
        console.print(Text(f"{_INDENT}{result.reason}", _STYLES[result.status]), soft_wrap=True)
    if result.found is not None:
        for line in _lines(result.found):
            console.print(f"{_INDENT}{line}", soft_wrap=True)
    if result.trace:
        stderr.print(result.trace, soft_wrap=True)


def _lines(found: Found) -> list[str]:
    """Sentences one by one, then all else in one line, then tables of what has several parts."""
    sentences, others, tables = [], [], []
    for name, info in type(found).model_fields.items():
        value = getattr(found, name)
        if isinstance(value, tuple):
            tables += _table(value) if value else []
        elif _unit(info) == "sentence":
            sentences.append(str(value))
        elif value is not None:
            others.append(f"{_label(name)} {_shown(value, info)}")
    return sentences + ([", ".join(others)] if others else []) + tables


def _table(rows: Sequence[Found]) -> list[str]:
    """A line for the names of the fields, and one for each of the rows; none is cut to fit a terminal."""
    fields = type(rows[0]).model_fields
    cells = [[_label(name) for name in fields]]
    cells += [[_shown(getattr(row, name), info) for name, info in fields.items()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.rjust(n) for cell, n in zip(line, widths, strict=True)) for line in cells]


def _label(name: str) -> str:
    """The field's name without its unit, which stands behind the number."""
    for unit in ("_bytes", "_seconds", "_ms"):
        name = name.removesuffix(unit)
    return name.replace("_", " ")


def _unit(info: FieldInfo) -> str:
    extra = info.json_schema_extra
    return str(extra.get("unit", "")) if isinstance(extra, dict) else ""


def _shown(value: Any, info: FieldInfo) -> str:
    """A value with its unit, to three digits."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    factor, unit = _UNITS.get(_unit(info), (1, ""))
    if isinstance(value, int) and factor == 1:
        return f"{value:,}"
    scaled = value / factor
    number = f"{scaled:,.0f}" if abs(scaled) >= 1000 else f"{scaled:.3g}"
    return f"{number} {unit}".strip()


def _again(report: Report, device: str | None, shape: str | None) -> str:
    """The command that tries again what failed."""
    failed = [result.name for result in report.results if result.status == "failed"]
    options = [("--device", device), ("--shape", shape), *(("--only", name) for name in failed)]
    return " ".join(["pgrpo selfcheck", *(f"{option} {value}" for option, value in options if value)])


def _summary(report: Report, console: SafeConsole, again: str) -> None:
    told = f"{report.ok} ok, {report.failed} failed, {report.skipped} skipped in {report.seconds:.0f} s."
    if report.failed:
        told += f" To try what failed again: {again}"
    console.print(Text(f"\n{told}", "bold red" if report.failed else "bold"), soft_wrap=True)
