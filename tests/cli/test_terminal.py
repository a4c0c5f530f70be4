"""Text that others wrote, on a terminal: no markup is read in it, and nothing in it moves the cursor."""

from __future__ import annotations

import io
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from rich.live import Live
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner

import pgrpo_cli.cli.terminal as terminal
from pgrpo_cli.cli.app import app
from pgrpo_cli.cli.display import training_display
from pgrpo_cli.cli.terminal import SafeConsole, ask, emit, note, safe, stream
from pgrpo_cli.state.history_store import GroupRow, HistoryStore, PartRow
from tests.support.runs import make_run, recipe_of
from tests.support.training import pgrpo, trained, write_tiny

# An escape sequence, C1's one-byte form of it, a bell, a return, a backspace, an override of the direction of
# text, an isolate, a tag, a byte of a file name that is no UTF-8.
HOSTILE = "\x1b[2J|\x9b31m|\x07|\r|\x08|\u202e|\u2066|\U000e0041|\udcff|\x7f"
SHOWN = r"\u001b[2J|\u009b31m|\u0007|\u000d|\u0008|\u202e|\u2066|\U000e0041|\udcff|\u007f"
MARKUP = ["[/x]", "[romance]", "[link=https://example.org]x[/link]", "[bold]", ":smile:", "[", "\\["]
READABLE = [
    "é", "日本語", "עברית", "नमस्ते", "👩‍👩‍👧", "نمی‌خواهم", "a\tb\nc", "e\u0301", "🏳️‍🌈", "±…—“”",
]  # fmt: skip


def test_what_is_readable_stays_as_it_is() -> None:
    for text in READABLE:
        assert safe(text) == text


def test_what_does_more_than_show_is_an_escape() -> None:
    assert safe(HOSTILE) == SHOWN
    assert safe(safe(HOSTILE)) == SHOWN


# Signs of Arabic, Syriac, Kaithi and Egyptian, shorthand and music: in this category, but seen on paper, or
# without effect on what stands beside them.
OF_SCRIPTS = re.compile("[\u200c\u200d\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
                        "\U00013430-\U0001345f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a]")  # fmt: skip


def test_every_control_and_format_character_of_unicode_is_known() -> None:
    suspects = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    left = [c for c in map(chr, range(0x110000)) if unicodedata.category(c) in suspects and safe(c) == c]
    assert [c for c in left if not OF_SCRIPTS.fullmatch(c)] == ["\t", "\n"]


def console_of(**options: Any) -> SafeConsole:
    given = {"force_terminal": True, "width": 200, "height": 20, "color_system": "truecolor"}
    return SafeConsole(file=io.StringIO(), **{**given, **options})


def printed(console: SafeConsole) -> str:
    """What reached the terminal but for rich's own sequences: colours, and the cursor of live displays."""
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", console.file.getvalue())


def in_a_table(console: SafeConsole, text: str) -> None:
    table = Table(title=text, caption=text)
    table.add_column(text, footer=text)
    table.add_row(text)
    table.add_row(Text(text, "bold red"))
    console.print(table)


def in_live_progress(console: SafeConsole, text: str) -> None:
    progress = Progress(TextColumn("{task.description}", markup=False), console=console)
    progress.add_task(text, total=1)
    with Live(progress, console=console, refresh_per_second=100) as live:
        console.print(text)
        live.refresh()


PLACES = {
    "a line": lambda console, text: console.print(text),
    "a long line": lambda console, text: console.print(text, soft_wrap=True),
    "styled": lambda console, text: console.print(Text.assemble(("error: ", "bold red"), text)),
    "a table": in_a_table,
    "a live display": in_live_progress,
}


@pytest.mark.parametrize("place", PLACES)
def test_nothing_but_text_reaches_the_terminal(place: str) -> None:
    console = console_of()
    PLACES[place](console, HOSTILE)
    text = printed(console)
    assert all(c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Cs") for c in text), ascii(text)
    # Rich drops a bell, a return and a backspace of a styled text before anybody can show them.
    assert re.search(r"\\u001b\[2J\|\\u009b31m\|(\\u0007)?\|.*\\u202e\|\\u2066\|\\U000e0041\|\\udcff", text)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("text", MARKUP)
def test_no_markup_is_read(place: str, text: str) -> None:
    console = console_of()
    PLACES[place](console, text)
    assert text in printed(console)
    assert "\x1b]8" not in console.file.getvalue()  # type: ignore[attr-defined]


def test_escapes_have_their_room_in_a_table() -> None:
    console = console_of(width=60)
    table = Table("name", "number")
    for name in ("plain", HOSTILE * 3, "\x1b" * 4):
        table.add_row(name, "1")
        table.add_row(Text(name), "1")
    console.print(table)
    assert {len(line) for line in printed(console).splitlines()} <= {60}


def test_json_holds_no_control_character_and_is_what_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"name": "".join(map(chr, (*range(0x20), *range(0x7F, 0xA0), 0x202E, 0xE0041))) + "é\\u001b"}
    emit(json.dumps(value, indent=2))
    out = capsys.readouterr().out
    assert json.loads(out) == value
    assert re.fullmatch(r"[\x20-\x7e\n]*", out)


def test_notes_and_plain_results_are_safe_too(capsys: pytest.CaptureFixture[str]) -> None:
    emit(f"[/x] {HOSTILE}")
    note(f"[/x] {HOSTILE}", "error: ")
    captured = capsys.readouterr()
    assert captured.out == f"[/x] {SHOWN}\n"
    assert captured.err == f"error: [/x] {SHOWN}\n"


def test_a_piece_is_seen_at_once_and_is_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    # A buffer larger than the pieces: only a flush brings them to the raw stream.
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8"))
    stream("half a ")
    assert raw.getvalue() == b"half a "
    stream(HOSTILE)
    assert raw.getvalue().decode() == f"half a {SHOWN}"


def test_a_prompt_is_safe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("typed\n"))
    assert ask(f"{HOSTILE}> ") == "typed"
    assert capsys.readouterr().out == f"{SHOWN}> "


NAMES = [*MARKUP, HOSTILE.replace("\udcff", "")]


def test_the_groups_of_a_strangers_run_are_shown_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    run = make_run(tmp_path / "run", recipe_of())
    rows = [GroupRow(name, 4.0, 0.5, 0.1, 1, 1, 1, None, None) for name in NAMES]
    with HistoryStore(run.history_path) as store:
        store.record_step([], rows, [PartRow("[/x]", 4.0, 0.5, 0.1, 1, 1, 1, None, None, "[/part]\x1b[m")])
    shown = pgrpo("groups", run.path).stdout
    for name in (*MARKUP, r"\u001b[2J", r"[/part]\u001b[m"):
        assert name in shown
    assert "\x1b" not in shown
    as_json = pgrpo("groups", run.path, "--json").stdout
    assert set(json.loads(as_json)) == set(NAMES)


def test_a_preference_group_whose_name_is_markup_is_trained_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_tiny(tmp_path)
    rows = [{"prompt": f"{i}", "preference_group": name} for name in MARKUP[:3] for i in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(terminal.stderr, "_force_terminal", True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    shown = trained(recipe, tmp_path / "run").stderr
    last_frame = shown[shown.rindex("preference group") :]
    for name in MARKUP[:3]:
        assert name in last_frame


def test_a_line_a_step_and_messages_are_safe() -> None:
    console = console_of(force_terminal=False)
    with training_display(console, steps=1, done=0, quiet=True) as display:
        display.on_message(f"warning: [/x] {HOSTILE}")
    assert printed(console) == f"warning: [/x] {SHOWN}\n"


@pytest.mark.parametrize(
    "words",
    [
        [HOSTILE.replace("\udcff", "")],
        ["--x\x1b[2J"],
        ["train", "recipe.yaml", "--profile", "\x1b[2J\x9b"],
        ["train", "\x1b[2J\x9b.yaml"],
        ["validate", "recipe.yaml", "--set", "\x1b[2J\x9b=1"],
    ],
)
def test_what_is_wrong_with_a_command_is_said_safely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text("name: x\n")
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "error: " in result.stderr
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", result.output), ascii(result.output)


def test_the_question_whether_code_may_run_shows_the_whole_name_of_the_file(tmp_path: Path) -> None:
    # On a terminal that obeyed, `harmless.py` would be all that is seen of it.
    name = "evil\x1b[2K\r\u202eharmless.py"
    recipe = write_tiny(tmp_path, rewards=[{"type": "python", "file": name}])
    result = pgrpo("train", recipe, "--run-dir", tmp_path / "run")
    assert result.exit_code == 2
    assert r"evil\u001b[2K\u000d\u202eharmless.py" in result.stderr


OTHER_WAYS = re.compile(
    r"sys\.(__)?std(out|err)(__)?\.write|(?<![\w.])(print|input)\(|(?<!Safe)Console\(|get_console|\becho\(|secho\(|"
    r"os\.write\((1|2|sys)\b|traceback\.print|rich import print"
)


def test_there_is_no_other_way_to_print() -> None:
    package = Path(terminal.__file__).parents[1]
    found = [
        f"{path.relative_to(package)}:{number}: {line}"
        for path in sorted(package.rglob("*.py"))
        if path != Path(terminal.__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if OTHER_WAYS.search(line)
    ]
    assert found == []


def test_a_heading_is_wrapped_where_the_cells_of_its_column_are_not() -> None:
    console = SafeConsole(width=20, file=io.StringIO())
    table = Table(box=None)
    table.add_column(Text("less reference"), no_wrap=True)
    table.add_column(Text("name"))
    table.add_row("+0.050", "a b c d e f")
    terminal.show_table(table, console)
    lines = [line.split() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert [line[0] for line in lines] == ["less", "reference", "+0.050", "e"]
