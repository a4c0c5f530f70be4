"""`pgrpo sweep`: the runs of a grid, planned before any is made. Running them is the command line's part."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Literal

from pgrpo_cli.errors import RecipeError, RunError
from pgrpo_cli.eval.targets import eval_target, has_judged, has_tasks, kept_result
from pgrpo_cli.paths import path_of
from pgrpo_cli.recipe.load import differing_keys, load_recipe
from pgrpo_cli.recipe.resolved import with_aggregation
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.state.extend import extension_of, has_other_steps
from pgrpo_cli.state.run import run_if_any

Status = Literal["new", "started", "trained", "done", "different"]

Control = Literal["random_groups"]
"""A control that is made beside each run."""
CONTROLS: dict[Control, str] = {"random_groups": "history.preference_groups=random"}
"""The override that makes it."""

_SEED = "seed"
_LONGEST_VALUE = 40
"""Bytes of a value in a directory's name."""
_SHOWN_KEYS = 3
_QUOTED = re.compile(r"'(?:[^']|'')*'" r'|"(?:[^"\\]|\\.)*"', re.DOTALL)
"""Text in quotes, as YAML reads it."""
MOST_RUNS = 1000


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep: its directory, the overrides that make it, and its recipe with them."""

    path: Path
    overrides: tuple[str, ...]
    recipe: Recipe

    def status(self, *, evaluated: bool) -> Status:
        """How far it is: `trained` lacks the evaluation that is wanted, `done` nothing; `different` has an
        obstacle.

        Raises what `run_if_any`, `eval_target` and `kept_result` raise for a run that is damaged.
        """
        run = run_if_any(self.path)
        if run is None or not run.started:
            return "new"
        if self.obstacle():
            return "different"
        if not run.finished or has_other_steps(run, self.recipe):
            return "started"
        if not evaluated:
            return "done"
        kept = kept_result(eval_target(run, self.recipe, run.recipe_dir))
        whole = kept and has_judged(self.recipe.eval, kept) and has_tasks(self.recipe.eval, kept)
        return "done" if whole else "trained"

    def obstacle(self) -> str | None:
        """Why the recipe cannot go on with the run that is there; None if it can, or if there is none.

        Raises what `status` raises.
        """
        run = run_if_any(self.path)
        if run is None or not run.started:
            return None
        try:
            if extension_of(run, self.recipe):
                return None
        except RunError as error:
            return error.message
        differing = [key for key, *_ in differing_keys(run.recipe(), self.recipe)]
        keys = [key for key in differing if not (run.finished and key.startswith("eval."))]
        if not keys:
            return None
        more = f" and {len(keys) - _SHOWN_KEYS} more" if len(keys) > _SHOWN_KEYS else ""
        return f"{self.path} was made with other values of {', '.join(keys[:_SHOWN_KEYS])}{more}"


@dataclass(frozen=True)
class Sweep:
    """Runs in the order in which they are made; `notes` are sentences for the user."""

    runs: tuple[PlannedRun, ...]
    notes: tuple[str, ...]


def plan_sweep(
    recipe_path: Path,
    grid: Sequence[str],
    seeds: str | None = None,
    overrides: Sequence[str] = (),
    runs_dir: Path = Path("runs"),
    control: Control | None = None,
) -> Sweep:
    """Every combination of the grid's values with every seed; all recipes are checked before the first run.

    `grid`: KEY=VALUE,VALUE,... each; `seeds`: a number of seeds from the recipe's on, or a list with commas.
    Seeds share their data: `data.seed` is set to the recipe's seed unless the recipe or the grid sets it.
    With `control` each run is followed by its control, unless its estimator uses no history. Raises
    RecipeError for a grid that cannot be read, for any recipe that breaks a rule, for two runs that would
    be the same, and for a control that no run has.
    """
    notes: list[str] = []
    base = load_recipe(recipe_path, overrides)
    axes = [_axis(entry) for entry in grid]
    numbers = seeds_of(seeds, base.seed)
    if numbers:
        axes.append((_SEED, [str(number) for number in numbers]))
    _refuse_bad_axes(axes, control)
    keys = [key for key, _ in axes]
    shares, shared = _SEED in keys and "data.seed" not in keys, f"data.seed={base.seed}"

    def planned(name: str, words: tuple[str, ...]) -> PlannedRun:
        recipe = load_recipe(recipe_path, words, notes.append)
        if shares and recipe.data.seed is None:
            notes.append(
                f"{shared}: runs that differ in their seeds alone get the same prompts and the same split."
            )
            return planned(name, (*words, shared))
        return PlannedRun(path_of(name, "the grid's run", runs_dir), words, recipe)

    runs: list[PlannedRun] = []
    without: list[str] = []
    for parts in product(*(_names(key, values).items() for key, values in axes)):
        chosen = tuple(f"{key}={value}" for key, (value, _) in zip(keys, parts, strict=True))
        name = "-".join([base.name, *(part for _, part in parts)])
        run = planned(name, (*overrides, *chosen))
        runs.append(run)
        if control and run.recipe.history.preference_groups == "random":
            raise RecipeError(
                f"--control {control}: {name} has history.preference_groups=random already",
                remedy="Leave one of the two out.",
            )
        if control and run.recipe.advantage.resolved_estimator.uses_history:
            runs.append(planned(f"{name}-{control}", (*run.overrides, CONTROLS[control])))
        elif control:
            without.append(run.recipe.advantage.estimator)
    _refuse_twins(runs)
    notes += _control_notes(control, list(dict.fromkeys(without)), len(without) < len(runs))
    # Most runs have the same to tell.
    return Sweep(tuple(runs), tuple(dict.fromkeys(notes)))


def _refuse_twins(runs: Sequence[PlannedRun]) -> None:
    """Raises RecipeError for two runs of one name or of equal recipes."""
    found: dict[str, str] = {}
    for run in runs:
        name = run.path.name
        if name in found.values():
            what = f"both be {name}"
        elif (other := found.setdefault(with_aggregation(run.recipe).model_dump_json(), name)) != name:
            what = f"be the same: {other} and {name}"
        else:
            continue
        raise RecipeError(
            f"two runs of the sweep would {what}", remedy="Give the grid values that differ more."
        )


def seeds_of(text: str | None, first: int) -> list[int]:
    """`3` is three seeds from `first` on, `4,7` those two, None none. Raises RecipeError for others."""
    if text is None:
        return []
    if re.fullmatch(r"[0-9]{1,10}", text.strip()) and int(text) >= 1:
        if int(text) > MOST_RUNS:
            raise RecipeError(f"--seeds {text}: a sweep has at most {MOST_RUNS} runs")
        return list(range(first, first + int(text)))
    numbers = [part.strip() for part in text.split(",") if part.strip()]
    if "," not in text or not numbers or not all(re.fullmatch(r"[0-9]{1,10}", number) for number in numbers):
        raise RecipeError(
            f"--seeds {text}: must be how many seeds, or a list of them with commas",
            remedy="For instance --seeds 3, or --seeds 0,1,7. A single seed of a number is --set seed=7.",
        )
    return [int(number) for number in numbers]


def split_values(text: str) -> list[str]:
    """Values between commas that stand outside brackets and quotes: `a,[1,2],"x,y"` are three.

    A quote opens where a value or an item begins: the apostrophe of `Don't` is text. Raises RecipeError for
    one that has no end.
    """
    values, current, closers, position = [], "", "", 0
    while position < len(text):
        piece = text[position]
        if piece in "'\"" and current.rstrip()[-1:] in ("", *"[{,:"):
            quoted = _QUOTED.match(text, position)
            if quoted is None:
                raise RecipeError(
                    f"--grid: a value begins with {piece} and has no end: {text}",
                    remedy="Close it, or put the other kind of quotes around the value.",
                )
            piece = quoted[0]
        elif piece in "[{":
            closers = {"[": "]", "{": "}"}[piece] + closers
        elif closers.startswith(piece):
            closers = closers[1:]
        position += len(piece)
        if piece == "," and not closers:
            values.append(current.strip())
            current = ""
        else:
            current += piece
    return [*values, current.strip()]


def _axis(entry: str) -> tuple[str, list[str]]:
    key, equals, text = entry.partition("=")
    values = split_values(text)
    if not equals or not key.strip() or not all(values):
        raise RecipeError(
            f"--grid {entry}: must be KEY=VALUE,VALUE,...",
            remedy="For instance --grid advantage.estimator=grpo,pgrpo. Repeat --grid for further keys.",
        )
    return key.strip(), values


def _control_notes(control: Control | None, without: Sequence[str], some: bool) -> list[str]:
    """What a control is, and which runs have none. Raises RecipeError if no run has one."""
    if control is None:
        return []
    why = f"advantage.estimator {' and '.join(without)} uses no reward history, and would learn the same"
    if not some:
        raise RecipeError(
            f"--control {control}: no run can have it: {why}",
            remedy="Take an estimator with a history, such as advantage.estimator=pgrpo.",
        )
    what = (
        f"--control {control}: beside each run one whose prompts share their reward histories by chance; "
        "rewards and evaluation stay with the named preference groups, so `pgrpo compare` takes both."
    )
    return [what, *([f"no control: {why}."] if without else [])]


def _refuse_bad_axes(axes: Sequence[tuple[str, Sequence[str]]], control: Control | None) -> None:
    if not axes and control is None:
        raise RecipeError(
            "a sweep varies something",
            remedy="Give --grid KEY=VALUE,VALUE,..., --seeds N or --control random_groups.",
        )
    keys = [key for key, _ in axes]
    for key in keys:
        if keys.count(key) > 1:
            what = "--grid seed=... and --seeds" if key == _SEED else "two grids"
            raise RecipeError(f"{key} is given twice, by {what}", remedy="Name all its values in one place.")
    if "name" in keys:
        raise RecipeError("--grid name=...: a run's name changes nothing", remedy="Vary another key.")
    for key, values in axes:
        if len(set(values)) < len(values):
            raise RecipeError(f"{key}: a value is named twice: {','.join(values)}")
    count = 1 if control is None else 2
    for _, values in axes:
        count *= len(values)
    if count > MOST_RUNS:
        raise RecipeError(f"the grid has {count} runs; a sweep has at most {MOST_RUNS}")


def _names(key: str, values: Sequence[str]) -> dict[str, str]:
    """Parts of directories' names, by value; those that look alike end with the hash of their value."""
    short = {value: _short(key, value) for value in values}
    alike = Counter(short.values())
    return {
        value: f"{name}-{sha256(value.encode(errors='replace')).hexdigest()[:6]}" if alike[name] > 1 else name
        for value, name in short.items()
    }


def _short(key: str, value: str) -> str:
    """A part of a directory's name: the value, with its key where that alone would say nothing."""
    word = re.sub(r"[^\w.+-]+", "_", value).strip("_.")
    word = word.encode()[:_LONGEST_VALUE].decode(errors="ignore") or "x"
    if key == _SEED:
        return f"seed{word}"
    return (
        word
        if re.match(r"[^\W\d_]{3}", word) and word not in ("true", "false", "null")
        else (f"{key.rsplit('.', 1)[-1]}_{word}")
    )
