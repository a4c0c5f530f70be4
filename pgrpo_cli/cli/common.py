"""Types of parameters that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from pgrpo_cli.paths import path_of


def path_parser(name: str) -> Callable[[str], Path]:
    """What makes a path of the text of the option or argument `name`: every one that takes a path has it."""
    return lambda text: path_of(text, name)


RecipeArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE",
        parser=path_parser("RECIPE"),
        help="Recipe in YAML; `pgrpo recipes` lists some.",
        show_default=False,
    ),
]
RunArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        parser=path_parser("RUN"),
        help="A run directory, also of a running run.",
        show_default=False,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the recipe: --set train.steps=40, --set rewards.0.weight=2. Repeatable.",
        show_default=False,
    ),
]
RunDirOption = Annotated[
    Path | None,
    typer.Option(
        "--run-dir",
        metavar="DIR",
        parser=path_parser("--run-dir"),
        help="Where the run lands. Default: runs/<recipe name>.",
        show_default=False,
    ),
]
AllowCodeOption = Annotated[
    bool, typer.Option("--allow-code", help="Run the Python files and plug-ins that the recipe names.")
]
AllowHostOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-host",
        metavar="HOST",
        help="Let a judge that the recipe names send prompts and completions to HOST. Repeatable.",
        show_default=False,
    ),
]


def _device(text: str) -> str:
    """Raises BadParameter for what is no device, with the rule of the recipe's key."""
    from pgrpo_cli.recipe.model import device_wish

    try:
        return device_wish(text)
    except ValueError as error:
        raise typer.BadParameter(f"--device: found '{text}'; {error}") from error


DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="DEVICE",
        parser=_device,
        help="Compute on `cpu`, `cuda` or `cuda:1`, whatever model.device says.",
        show_default=False,
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors and the result.")]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Go on although most prompts do not tell the model who asks.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to standard output.")]
