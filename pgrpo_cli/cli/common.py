"""Types of parameters that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from pgrpo_cli.paths import path_of


def path_parser(name: str) -> Callable[[str], Path]:
    """What makes a path of the text of the option or argument `name`: every one that takes a path has it."""
    return lambda text: path_of(text, name)


def path_argument(name: str, help: str, *, metavar: str | None = None) -> Any:
    """An argument that is a path."""
    return typer.Argument(metavar=metavar or name, parser=path_parser(name), help=help, show_default=False)


def option(name: str, metavar: str, help: str, **rules: Any) -> Any:
    """An option whose default, if there is one to tell, is told by its help."""
    return typer.Option(name, metavar=metavar, help=help, show_default=False, **rules)


def text_option(name: str, metavar: str, help: str) -> Any:
    """An option that is any text."""
    return option(name, metavar, help, parser=_text)


def _text(text: str) -> str:
    from pgrpo_cli.feedback.records import decoded

    return decoded(text)


def path_option(name: str, metavar: str, help: str) -> Any:
    """An option that is a path."""
    return option(name, metavar, help, parser=path_parser(name))


RecipeArgument = Annotated[Path, path_argument("RECIPE", "Recipe in YAML; `pgrpo recipes` lists some.")]
RunArgument = Annotated[Path, path_argument("RUN", "A run directory, also of a running run.")]
RunOrRecipeArgument = Annotated[Path, path_argument("RUN_OR_RECIPE", "A run directory, or a recipe.")]
SetOption = Annotated[
    list[str] | None,
    option(
        "--set",
        "KEY=VALUE",
        "Override a key of the recipe: --set train.steps=40, --set rewards.0.weight=2. Repeatable.",
    ),
]
RunDirOption = Annotated[
    Path | None,
    path_option("--run-dir", "DIR", "Directory of the run. Default: runs/<recipe name>."),
]
AllowCodeOption = Annotated[
    bool, typer.Option("--allow-code", help="Run the Python files and plug-ins that the recipe names.")
]
AllowHostOption = Annotated[
    list[str] | None,
    option(
        "--allow-host",
        "HOST",
        "Let a judge that the recipe names send prompts and completions to HOST. Repeatable.",
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
    option(
        "--device",
        "DEVICE",
        "Compute on `cpu`, `cuda` or `cuda:1`, whatever model.device says.",
        parser=_device,
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors and the result.")]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Continue although most prompts do not tell the model who asks.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to standard output.")]
StepOption = Annotated[
    int | None,
    option("--step", "STEP", "Use the checkpoint after that step. Default: the newest adapter.", min=1),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="What is drawn depends on it.")]
GroupOption = Annotated[
    str | None, option("--as", "GROUP", "Tell the model that this preference group asks.")
]
