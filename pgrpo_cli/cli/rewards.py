"""`rewards`: which there are, and what those of a recipe make of a text, without a model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from .common import (
    AllowCodeOption,
    AllowHostOption,
    DeviceOption,
    JsonOption,
    RecipeArgument,
    RunDirOption,
    SetOption,
    option,
    path_option,
    text_option,
)
from .terminal import emit, note, show_table, stdout

if TYPE_CHECKING:
    from pgrpo_cli.recipe.reward_base import RewardBase
    from pgrpo_cli.rewards.trial import PartTrial, RewardTrial, Trial

_LONGEST_TITLE = 200


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    rewards = typer.Typer(no_args_is_help=True, help="List the types of rewards, or try those of a recipe.")
    rewards.command("list")(list_rewards)
    rewards.command("try")(try_on_texts)
    app.add_typer(rewards, name="rewards")


def list_rewards() -> None:
    """List the types of rewards with the parts that they record."""
    from pgrpo_cli.recipe.reward_base import RewardBase
    from pgrpo_cli.recipe.rewards import Reward
    from pgrpo_cli.recipe.shape import variants

    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for name, section in variants(Reward).items():
        assert issubclass(section, RewardBase)
        summary = (section.__doc__ or "").strip().splitlines()[0]
        table.add_row(name, ", ".join(section.parts) or "its own", summary)
    show_table(table)
    note(
        "docs/recipes.md and `pgrpo schema --markdown` have all keys; `pgrpo rewards try RECIPE` tries them."
    )


def try_on_texts(
    recipe: RecipeArgument,
    texts: Annotated[
        list[str] | None,
        text_option("--text", "TEXT", "A completion to score. Repeatable."),
    ] = None,
    file: Annotated[
        Path | None,
        path_option(
            "--file",
            "FILE",
            "JSON lines with a `text` each; `prompt`, `preference_group` and columns if there are any.",
        ),
    ] = None,
    groups: Annotated[
        list[str] | None,
        option(
            "--group",
            "GROUP",
            "Preference group to score for. Repeatable. Default: those of the recipe and its data.",
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        text_option(
            "--column",
            "KEY=VALUE",
            "A column of the data row, JSON or text: --column reference='Good.'. Repeatable.",
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        text_option("--prompt", "TEXT", "The user's message before it."),
    ] = None,
    run_dir: RunDirOption = None,
    overrides: SetOption = None,
    allow_code: AllowCodeOption = False,
    allow_host: AllowHostOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score texts with a recipe's rewards: each value and part, weighted and not; no policy is loaded.

    Without --text and --file it takes reference answers of the run's prepared data, else standard input.
    A judge's scores are kept in the run directory, if there is one, and asked for once.
    """
    from pgrpo_cli.recipe.load import load_recipe
    from pgrpo_cli.rewards.build import build_rewards
    from pgrpo_cli.rewards.reward_sum import sentences_about
    from pgrpo_cli.rewards.trial import try_rewards
    from pgrpo_cli.state.run import run_if_any
    from pgrpo_cli.verbs.source import default_run_dir

    from .reward_texts import Texts, completions_to_try, parse_columns

    loaded = load_recipe(recipe, overrides or (), note)
    options = Texts(texts or (), file, groups or (), parse_columns(columns or ()), prompt)
    # To try a reward begins no run.
    run = run_if_any(run_dir or default_run_dir(loaded))
    rewards = build_rewards(
        loaded.rewards,
        recipe.parent,
        allow_code,
        run_dir=run.path if run else None,
        allowed_hosts=allow_host or (),
        device=_device_of_models(loaded.rewards, device or loaded.model.device),
    )
    completions = completions_to_try(options, loaded, run.path if run else None, rewards.users)
    trials = try_rewards(rewards, completions)
    for sentence in sentences_about(rewards):
        note(sentence)
    if as_json:
        emit(json.dumps([_as_json(trial) for trial in trials], indent=2))
        return
    for text, of_text in _by_text(trials):
        show_table(trial_table(text, of_text))
        stdout.print()


def _device_of_models(rewards: Sequence[RewardBase], wish: str) -> Any:
    """Where the rewards' models compute, which is told; None where there are none."""
    from pgrpo_cli.recipe.rewards import pretrained_in

    if not any(map(pretrained_in, rewards)):
        return None
    from pgrpo_cli.pretrained.device import choose_device, describe

    device = choose_device(wish)
    note(describe(device))
    return device


def _by_text(trials: Sequence[Trial]) -> Iterator[tuple[str, list[Trial]]]:
    """(text, its trials) of each prompt, in order."""
    found: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        found.setdefault((trial.completion.prompt_id, trial.completion.text), []).append(trial)
    for (_, text), of_text in found.items():
        yield text, of_text


def trial_table(text: str, trials: Sequence[Trial]) -> Table:
    """A line for each reward and part of each preference group; `weighted` adds up to the total."""
    shown = text if len(text) <= _LONGEST_TITLE else text[: _LONGEST_TITLE - 3] + "..."
    table = Table(title=shown, title_justify="left", box=None, pad_edge=False)
    table.add_column("preference group", overflow="fold")
    table.add_column("reward, part", overflow="fold")
    for heading in ("value", "weight", "weighted", "range"):
        table.add_column(heading, justify="right")
    for trial in trials:
        group = trial.completion.preference_group
        for reward in trial.rewards:
            bounds = "-" if reward.value_range is None else " to ".join(f"{b:g}" for b in reward.value_range)
            table.add_row(
                group, reward.label, _number(reward.value), f"{reward.weight:g}",
                _number(reward.weighted), bounds,
            )  # fmt: skip
            for part in _parts_of_interest(reward):
                weight = "-" if part.weight is None else f"{part.weight:g}"
                table.add_row("", f"  {part.name}", _number(part.value), weight, _number(part.weighted))
            for name, value in sorted(reward.details.items(), key=lambda item: -abs(item[1])):
                table.add_row("", f"  {name}", f"{value:+.2f}")
            group = ""
        table.add_row(group, "total", "", "", _number(trial.total), style="bold")
    return table


def _parts_of_interest(reward: RewardTrial) -> list[PartTrial]:
    """All but a part that is the value itself."""
    return [part for part in reward.parts if part.name != "value"] if len(reward.parts) > 1 else []


def _number(value: float | None) -> str:
    return "-" if value is None else "no reward" if math.isnan(value) else f"{value:.4f}"


def _as_json(trial: Trial) -> dict[str, Any]:
    completion = trial.completion
    return {
        "prompt_id": completion.prompt_id,
        "preference_group": completion.preference_group,
        "text": completion.text,
        "value": _finite(trial.total),
        "rewards": [_reward_as_json(reward) for reward in trial.rewards],
    }


def _reward_as_json(reward: RewardTrial) -> dict[str, Any]:
    return {
        "name": reward.label,
        "value": _finite(reward.value),
        "weight": reward.weight,
        "weighted": _finite(reward.weighted),
        "range": reward.value_range,
        "parts": {
            part.name: {
                "value": _finite(part.value),
                "weight": part.weight,
                "weighted": _finite(part.weighted),
            }
            for part in reward.parts
        },
        **({"details": dict(reward.details)} if reward.details else {}),
    }


def _finite(value: float | None) -> float | None:
    """NaN, which is no JSON, as null."""
    return None if value is None or math.isnan(value) else value
