"""`taste`: pick between two answers; every pick is kept."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgrpo_cli.errors import DataError, PgrpoError
from pgrpo_cli.paths import path_of

from .callbacks import Terminal
from .common import (
    AllowCodeOption,
    DeviceOption,
    GroupOption,
    JsonOption,
    QuietOption,
    RunDirOption,
    RunOrRecipeArgument,
    SeedOption,
    SetOption,
    option,
    path_option,
)
from .terminal import ask, emit, note, say

if TYPE_CHECKING:
    from pgrpo_cli.conversation.tasting import Shown, TasteResult, Tasting

MARKS = ("1", "2", "=", "s", "u", "q")
_RULE = "1, 2, = (the same), s (skip), u (undo), q (quit)"


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(taste)


def taste(
    target: RunOrRecipeArgument,
    user: Annotated[str, option("--user", "NAME", "Who picks.")],
    between: Annotated[
        str,
        typer.Option(
            "--between",
            metavar="A,B",
            help="`base,tuned` or two runs: which is better for me? `samples`: answers of one model.",
        ),
    ] = "samples",
    group: GroupOption = None,
    prompts: Annotated[
        Path | None,
        path_option(
            "--prompts",
            "FILE",
            "Questions: one per line, or JSON lines with a `prompt`. Default: those of the data, else "
            "what you type.",
        ),
    ] = None,
    pairs: Annotated[int, typer.Option("--pairs", metavar="N", min=1, help="How many pairs.")] = 20,
    answers: Annotated[
        str | None,
        option(
            "--answers",
            "FILE",
            "Read picks from a file, one of `1 2 = s` per line. `-`: JSON lines with a program, each pair on "
            "standard output, each pick on standard input.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        path_option("--output", "FILE", "Where picks are appended. Default: taste.jsonl in the run."),
    ] = None,
    seed: SeedOption = 0,
    run_dir: RunDirOption = None,
    overrides: SetOption = None,
    allow_code: AllowCodeOption = False,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Pick between two answers, without knowing whose they are; every pick is kept.

    Where nothing is trained yet, the base model of the recipe answers.
    """
    # A file that cannot be read, or has something else than marks, is found before a model is loaded.
    pick = _picker(answers, as_json)
    from pgrpo_cli.verbs.taste import taste

    tasting = taste(
        target,
        user=user,
        between=between,
        group=group,
        prompts=prompts,
        next_question=partial(_typed_question, as_json) if answers is None and sys.stdin.isatty() else None,
        output=output,
        run_dir=run_dir,
        overrides=overrides or (),
        seed=seed,
        allow_code=allow_code,
        device=device,
        callbacks=Terminal(quiet=quiet or as_json),
    )
    _pairs(tasting, pick, pairs, quiet=quiet or answers is not None)
    if tasting.no_choice and not quiet:
        note(tasting.no_choice)
    result = tasting.result()
    if as_json:
        emit(json.dumps(_as_json(result)))
        return
    _show(result)
    if not quiet:
        note(f"Picks: {shlex.quote(str(tasting.path))}")


def _pairs(tasting: Tasting, pick: Callable[[Shown], str], most: int, *, quiet: bool) -> None:
    """Show pairs until there are enough, or the person has had enough."""
    done = 0
    later: list[Shown] = []
    pair = tasting.next_pair()
    while pair is not None:
        mark = pick(pair)
        if mark == "q":
            return
        if mark == "u":
            before = tasting.undo()
            if before is None:
                note("there is no pick to take back")
            else:
                # The pair that waits is shown again afterwards.
                later.append(pair)
                pair, done = before, done - 1
            continue
        tasting.pick(pair, mark)
        done += 1
        if not quiet and tasting.placing is not None:
            note(f"Where you are: {_placement(tasting.placing.probabilities())}")
        if done == most:
            return
        pair = later.pop() if later else tasting.next_pair()


def _picker(answers: str | None, as_json: bool) -> Callable[[Shown], str]:
    """What asks for a pick: the terminal, a file, or a program behind standard input and output."""
    if answers is None:
        return partial(_ask_person, aside=as_json)
    if answers == "-":
        return _ask_program
    path = path_of(answers, "--answers")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"--answers: {path} cannot be read: {error}", remedy="Name a file of text."
        ) from error
    given = iter(_marks(path, lines))
    return lambda pair: next(given, "q")


def _marks(path: Path, lines: list[str]) -> list[str]:
    for number, line in enumerate(lines, start=1):
        if line.strip() and line.strip() not in MARKS:
            raise DataError(
                f"{path}:{number}: found {line.strip()!r}, not one of {_RULE}", remedy="Correct it."
            )
    return [line.strip() for line in lines if line.strip()]


def _ask_person(pair: Shown, aside: bool) -> str:
    tell = note if aside else say
    for turn in pair.question.turns or ():
        tell(f"\n   {turn['role']}: {turn['content']}")
    tell(f"\n{pair.number}. {pair.question.text}\n")
    for index, answer in enumerate(pair.answers, start=1):
        tell(f"  [{index}] {answer.strip() or '(nothing)'}\n")
    while True:
        try:
            mark = ask("which is better? ", aside=aside).strip()
        except EOFError:
            return "q"
        if mark in MARKS:
            return mark
        note(_RULE)


def _ask_program(pair: Shown) -> str:
    emit(
        json.dumps(
            {
                "pair": pair.number,
                "prompt_id": pair.question.prompt_id,
                "turns": list(pair.question.turns or ()),
                "question": pair.question.text,
                "answers": list(pair.answers),
            }
        )
    )
    line = sys.stdin.readline()
    mark = line.strip().strip('"')
    if not line:
        return "q"
    if mark not in MARKS:
        # No DataError: that would say that nothing was begun, and picks were made.
        raise PgrpoError(
            f"--answers -: found {mark[:60]!r}, not one of {_RULE}", remedy="Write one per line."
        )
    return mark


def _typed_question(aside: bool) -> str | None:
    try:
        return ask("\nask something (nothing ends)> ", aside=aside).strip() or None
    except EOFError:
        return None


def _show(result: TasteResult) -> None:
    for sentence in result.sentences():
        say(sentence)
    if result.placement:
        say(f"Where you are: {_placement(result.placement)}")


def _placement(probabilities: Mapping[str, float]) -> str:
    most = sorted(probabilities.items(), key=lambda item: -item[1])[:4]
    return ", ".join(f"{group} {probability:.0%}" for group, probability in most)


def _as_json(result: TasteResult) -> dict[str, Any]:
    def number(value: float) -> float | None:
        return None if math.isnan(value) else value

    return {
        "models": result.names,
        "wins": result.wins,
        "losses": result.losses,
        "ties": result.ties,
        "win_rate": number(result.win_rate.mean),
        "ci_low": number(result.win_rate.low),
        "ci_high": number(result.win_rate.high),
        "trained_questions": result.trained,
        "placement": dict(result.placement),
    }
