"""`pgrpo taste`: a blind test between two answers, whose picks say what is better and train the next run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from pgrpo_cli.conversation.placing import Placing, placing_of
from pgrpo_cli.conversation.questions import (
    Question,
    questions_of,
    questions_of_data,
    shuffled,
    trained_questions,
    typed,
)
from pgrpo_cli.conversation.speaker import Speaker, load_speaker
from pgrpo_cli.conversation.tasting import Contestant, Tasting, candidates_of, earlier_picks
from pgrpo_cli.data.conditioning.presets import Preset, group_preset, plain_preset, preference_groups_of
from pgrpo_cli.data.manifest import read_manifest
from pgrpo_cli.errors import DataError, RecipeError, RunError
from pgrpo_cli.eval.matrix import MOST_GROUPS
from pgrpo_cli.eval.targets import eval_target
from pgrpo_cli.feedback.file import TASTE
from pgrpo_cli.feedback.records import Pick, checked_name, recorded_name
from pgrpo_cli.model.load.from_recipe import load_policy
from pgrpo_cli.model.load.precision import device_for
from pgrpo_cli.pretrained.device import describe
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.state.run import RunDirectory, claim, locked, run_at, run_if_any

from .callbacks import Callbacks
from .prepare import prepare_run
from .source import RecipeOrRun, StrPath, resolve

SAMPLES = "samples"
OWN = ("base", "tuned")
"""Names of the models of the run itself."""


def taste(
    source: RecipeOrRun,
    *,
    user: str,
    between: str = SAMPLES,
    group: str | None = None,
    prompts: StrPath | None = None,
    next_question: Callable[[], str | None] | None = None,
    output: StrPath | None = None,
    run_dir: StrPath | None = None,
    overrides: Sequence[str] = (),
    seed: int = 0,
    allow_code: bool = False,
    device: str | None = None,
    callbacks: Callbacks | None = None,
) -> Tasting:
    """Begin a blind taste test of a user with the model of a run, or with the base model of a recipe.

    `between`: `samples` of one model, `base,tuned`, or two runs. `group`: the preference group that the model
    is told of; None: the one in which the user's earlier picks place them, if there is one. Questions come
    from the file `prompts` (lines of text, or of JSON with a `prompt`), else from the data, else from
    `next_question`. Picks are appended to `output`, by default taste.jsonl of the run. Raises PgrpoError.
    """
    callbacks = callbacks or Callbacks()
    user = checked_name(user, "--user")
    run, recipe, recipe_dir = resolve(source, run_dir, overrides, callbacks.on_message)
    # Refuses links in a run before anything below it is looked at.
    run_if_any(run.path)
    chosen = device_for(recipe, device)
    callbacks.on_note(describe(chosen))
    path = run.path / TASTE if output is None else Path(output)
    if output is not None and not path.parent.is_dir():
        raise DataError(
            f"--output: {path.parent}: there is no such folder", remedy="Make it, or name another file."
        )
    # A file that cannot be read is found before the model is loaded.
    picks, notes = earlier_picks(path, user)
    speaker = _speaker(run, recipe, recipe_dir, chosen, callbacks)
    if output is None:
        run.path.mkdir(parents=True, exist_ok=True)
    for note in notes:
        callbacks.on_message(note)
    questions = _questions(run, recipe, recipe_dir, prompts, allow_code, callbacks)
    groups = preference_groups_of(run.path)[:MOST_GROUPS] if read_manifest(run.path) else []
    placing = placing_of(
        recipe.rewards, recipe_dir, groups, run.path, device=chosen, on_note=callbacks.on_note
    )
    _place_by(picks, questions, placing)
    preset = _preset(run, recipe, group, placing)
    versus, candidates, trained = None, [], {}
    if between == SAMPLES:
        candidates = candidates_of(run.path, recipe, speaker, groups if group is None else [], preset)
    else:
        versus = _versus(between, run, speaker, preset, chosen, callbacks)
        trained = _trained(between, run, recipe, recipe_dir)
        _tell_trained(questions, trained, callbacks)
    if questions:
        asked = {pick.prompt_id for pick in picks if pick.prompt_id is not None}
        order = shuffled(questions, seed, user, skip=asked, trained=trained)
    elif next_question is not None:
        order = typed(next_question)
    else:
        raise DataError(
            "there are no questions to ask: the run has no prepared data",
            remedy="Name a file with --prompts.",
        )
    told = preset if group or versus else plain_preset(recipe.model)
    return Tasting(
        order,
        path,
        user,
        speaker.name,
        candidates,
        versus,
        told.preference_group,
        told.recorded,
        placing,
        seed + len(picks),
        trained,
        callbacks.on_note,
    )


def _speaker(
    run: RunDirectory, recipe: Recipe, recipe_dir: Path, device: torch.device, callbacks: Callbacks
) -> Speaker:
    """The run's model; where nothing is trained yet, the base model of the recipe."""
    if run.finished or (run.checkpoints.is_dir() and any(run.checkpoints.glob("step-*"))):
        target = eval_target(run, recipe, recipe_dir)
        for warning in target.warnings:
            callbacks.on_note(f"note: {warning}")
        return load_speaker(target, device)
    policy = load_policy(recipe, recipe_dir=recipe_dir, device=device)
    return Speaker(policy, recipe, recipe_dir, name=run.path.resolve().name, step=0)


def _questions(
    run: RunDirectory,
    recipe: Recipe,
    recipe_dir: Path,
    prompts: StrPath | None,
    allow_code: bool,
    callbacks: Callbacks,
) -> list[Question]:
    """Those of the file, or what held-out users ask in the data; empty where there is neither."""
    if prompts is not None:
        return questions_of(Path(prompts))
    if read_manifest(run.path) is None:
        if recipe.data.source.type in ("feedback", "open_webui"):
            # Its data are the picks that are to be made.
            return []
        with locked(run, callbacks.on_message) as run:
            claim(run, recipe, recipe_dir)
            report, _ = prepare_run(run, recipe, recipe_dir, allow_code=allow_code)
            callbacks.on_prepared(report)
    return questions_of_data(run.path, recipe.data.conditioning)


def _place_by(picks: Sequence[Pick], questions: Sequence[Question], placing: Placing | None) -> None:
    """Tell the placing of the picks that were made before."""
    if placing is None:
        return
    known = {(question.prompt_id, question.text): question for question in questions}
    for pick in picks:
        place = (pick.prompt_id or "", pick.messages[-1]["content"])
        placing.add(known.get(place) or Question(*place), pick.answers, pick.pick)


def _trained(between: str, run: RunDirectory, recipe: Recipe, recipe_dir: Path) -> dict[str, int]:
    """The questions on which this run, or another one that is named, was trained."""
    trained = trained_questions(run.path, recipe, recipe_dir)
    named = [run_at(Path(name.strip())) for name in between.split(",") if name.strip() not in OWN]
    for other in named:
        if other.path.resolve() != run.path.resolve():
            trained |= trained_questions(other.path, other.recipe(), other.recipe_dir)
    return trained


def _tell_trained(questions: Sequence[Question], trained: dict[str, int], callbacks: Callbacks) -> None:
    known = sum(question.text.strip() in trained for question in questions)
    if known:
        callbacks.on_note(
            f"{known:,} of {len(questions):,} questions were in training, and are asked last: "
            f"{len(questions) - known:,} others come first"
        )


def _preset(run: RunDirectory, recipe: Recipe, group: str | None, placing: Placing | None) -> Preset:
    group = group or (placing.likely() if placing is not None else None)
    return plain_preset(recipe.model) if group is None else group_preset(run.path, recipe, group)


def _versus(
    between: str,
    run: RunDirectory,
    speaker: Speaker,
    preset: Preset,
    device: torch.device,
    callbacks: Callbacks,
) -> tuple[Contestant, Contestant]:
    names = [name.strip() for name in between.split(",")]
    if len(names) != 2 or not all(names):
        raise RecipeError(
            f"--between: found {between!r}, and two names with a comma are needed, or `samples`",
            remedy="Such as --between base,tuned or --between runs/a,runs/b.",
        )
    if len({_place(name, run) for name in names}) == 1:
        raise RecipeError(f"--between: found {between!r}, twice the same", remedy="Name two models.")
    first, second = (_contestant(name, run, speaker, preset, device, callbacks) for name in names)
    if first.name == second.name:
        # Folders of the same name: only the paths tell them apart.
        first, second = (
            replace(one, name=recorded_name(name)) for one, name in zip((first, second), names, strict=True)
        )
    return first, second


def _place(name: str, run: RunDirectory) -> str | Path:
    """What a name stands for: `base`, `tuned`, or where another run is."""
    if name in OWN:
        return name
    path = Path(name).resolve()
    return "tuned" if path == run.path.resolve() else path


def _contestant(
    name: str,
    run: RunDirectory,
    speaker: Speaker,
    preset: Preset,
    device: torch.device,
    callbacks: Callbacks,
) -> Contestant:
    place = _place(name, run)
    if place == "base":
        return Contestant("base", speaker, "base", preset)
    if place == "tuned":
        if not speaker.step:
            raise RunError(
                f"{run.path} has nothing trained yet", remedy="Train it, or use --between samples."
            )
        return Contestant("tuned", speaker, "tuned", preset)
    other = run_at(Path(name))
    recipe = other.recipe()
    loaded = _speaker(other, recipe, other.recipe_dir, device, callbacks)
    if not loaded.step:
        raise RunError(f"{other.path} has nothing trained yet", remedy="Train it first.")
    group = preset.preference_group
    theirs = plain_preset(recipe.model) if group is None else group_preset(other.path, recipe, group)
    # In records, `base` and `tuned` are the run's own.
    return Contestant(recorded_name(name) if loaded.name in OWN else loaded.name, loaded, "tuned", theirs)
