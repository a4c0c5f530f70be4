"""`pgrpo compare`: which run serves whom better, on the same held-out prompts, and whether that is noise."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pgrpo_cli.errors import EvalFileError, IncomparableError, RunError
from pgrpo_cli.eval.targets import eval_target, kept_result, other_files, sampling_of
from pgrpo_cli.paths import try_to_write
from pgrpo_cli.recipe.evaluation import EvalSection
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.report.page import comparison_page
from pgrpo_cli.state.curve import training_record
from pgrpo_cli.state.files import atomic_write
from pgrpo_cli.state.results import require_writable
from pgrpo_cli.state.run import RunDirectory, run_at
from pgrpo_cli.stats.comparison import (
    ComparedRun,
    Comparison,
    Method,
    Side,
    pairs_of,
)
from pgrpo_cli.stats.estimates import Resampler, prompt_values, shared_prompts
from pgrpo_cli.stats.evaluation import base_spreads, texts_of
from pgrpo_cli.stats.grouping import flat_keys, grouping_notes, methods_of, varying_keys
from pgrpo_cli.stats.intervals import Bootstrap
from pgrpo_cli.stats.learning import TrainingRecord, area_pairs, curve_notes, curve_source, learning_of
from pgrpo_cli.stats.result_types import Estimate, EvalResult, Header
from pgrpo_cli.stats.standardised import scales_missing, standardised_pair

from .callbacks import Callbacks
from .source import StrPath

if TYPE_CHECKING:
    from pgrpo_cli.eval.alignment import EvalProgress

# What two evaluations must have in common, and how to get there.
COMPARABLE = {
    "data_hash": "Prepare both from the same data: the same `data`, `model` and `seed` in the recipe.",
    "model": "Compare runs of the same base model.",
    "model_files": "Compare runs of the same base model. If these are one, only stored otherwise, evaluate "
    "both with the same files: `pgrpo eval RUN --fresh`.",
    "rewards": "Evaluate both with the same rewards.",
    "sampling": "Evaluate both with the same settings: `pgrpo eval RUN --set eval.KEY=VALUE`.",
    "max_prompts_per_group": "Evaluate both with `pgrpo eval RUN --set eval.max_prompts_per_group=N`.",
}


@dataclass(frozen=True)
class Entrant:
    """One run of a comparison: the label that it goes by, and its evaluation."""

    label: str
    result: EvalResult


@dataclass(frozen=True)
class ComparedRuns:
    """What was found, the page that shows it, and the runs by their labels."""

    comparison: Comparison
    page: Path
    runs: dict[str, Path]


def compare(
    runs: Sequence[StrPath],
    *,
    by: Sequence[str] = (),
    threshold: float | None = None,
    html: StrPath | None = None,
    allow_code: bool = False,
    allowed_hosts: Collection[str] = (),
    callbacks: Callbacks | None = None,
) -> ComparedRuns:
    """Compare the newest adapters of two or more runs; the first one is the reference.

    Runs that keep no evaluation are evaluated. `by`: recipe keys that tell methods apart; runs that are alike
    in them are seeds of one. `threshold`: the mean reward whose reaching is timed. `html`: where the page
    goes, by default compare.html in the last run. Other options are those of `train`. Raises
    IncomparableError for runs that did not measure the same, and other kinds of PgrpoError.
    """
    callbacks = callbacks or Callbacks()
    # What would be refused in the end is refused before minutes of sampling.
    refuse_fewer_than_two(len(runs))
    paths = [Path(run) for run in runs]
    page = paths[-1] / "compare.html" if html is None else Path(html)
    if html is not None and not page.parent.is_dir():
        raise RunError(f"{page.parent}: there is no such folder", remedy="Make it, or name another file.")
    if page.is_dir():
        raise RunError(f"{page}: is a folder", remedy="Name a file for the page: --html FILE.")
    if page.parent.is_dir():
        _try_to_write(page)
    labels = _labels(paths)
    directories = {label: run_at(path) for label, path in zip(labels, paths, strict=True)}
    entrants = entrants_of(
        directories,
        allow_code=allow_code,
        allowed_hosts=allowed_hosts,
        on_note=callbacks.on_note,
        progress=callbacks.on_progress,
    )
    evaluated = {entrant.label: entrant for entrant in entrants}
    records, notes = _records(directories)
    comparison = compare_evaluations([evaluated[label] for label in labels], by, records, threshold)
    comparison = comparison.model_copy(update={"notes": [*comparison.notes, *notes]})
    results = {label: entrant.result for label, entrant in evaluated.items()}
    atomic_write(page, comparison_page(comparison, results, records))
    return ComparedRuns(comparison, page, {label: run.path for label, run in directories.items()})


def entrants_of(
    runs: Mapping[str, RunDirectory],
    *,
    allow_code: bool = False,
    allowed_hosts: Collection[str] = (),
    on_note: Callable[[str], None] = lambda text: None,
    progress: EvalProgress | None = None,
) -> list[Entrant]:
    """The evaluation of each run's newest adapter by the run's label: the one it keeps, else a new one.

    New ones take the settings of the first kept one, so that they can be compared, and share its base rows.
    Whether the runs can be compared at all is found out before any is evaluated. `on_note` takes
    sentences for the user. Raises IncomparableError, and what `eval_target` and `evaluate_target` raise.
    """
    targets = {label: eval_target(run, run.recipe(), run.recipe_dir) for label, run in runs.items()}
    results = {label: kept_result(target, any_settings=True) for label, target in targets.items()}
    known = [result for result in results.values() if result is not None]
    if known:
        section = _eval_section(known[0])
        for label in [label for label, result in results.items() if result is None]:
            target = targets[label]
            recipe = target.recipe.model_copy(update={"eval": section})
            targets[label] = eval_target(target.run, recipe, target.recipe_dir)
    headers = [(label, results[label] or target.header) for label, target in targets.items()]
    for label, header in headers[1:]:
        refuse_incomparable(*headers[0], label, header)
    for label, target in targets.items():
        if results[label] is None:
            require_writable(target.run)
    entrants = []
    for label, target in targets.items():
        for warning in target.warnings:
            on_note(f"warning: {warning}")
        result = results[label]
        if result is None:
            # Kept evaluations are compared without torch.
            from pgrpo_cli.eval.alignment import evaluate_target

            on_note(f"{label} keeps no evaluation of its newest adapter: evaluating it now")
            result = evaluate_target(
                target,
                allow_code=allow_code,
                allowed_hosts=allowed_hosts,
                others=known,
                progress=progress,
                on_note=on_note,
            )
            known.append(result)
        entrants.append(Entrant(label, result))
    return entrants


def compare_evaluations(
    entrants: Sequence[Entrant],
    by: Sequence[str] = (),
    records: Mapping[str, TrainingRecord] | None = None,
    threshold: float | None = None,
) -> Comparison:
    """Every later method against the first, by preference group and over them (macro), paired by prompt.

    A method is a run, or several that differ in their seeds (`methods_of`; `by`: recipe keys). `records`:
    what runs recorded while they trained, by label; `threshold`: the mean reward whose reaching is timed.
    Intervals are made with the first run's bootstrap settings and resample users where prompts have them.
    Raises RunError for fewer than two runs or methods, and IncomparableError, naming the fields that differ,
    for runs that cannot be compared.
    """
    refuse_fewer_than_two(len(entrants))
    first, *others = entrants
    for other in others:
        refuse_incomparable(first.label, first.result, other.label, other.result)
    bootstrap = Bootstrap(first.result.bootstrap_samples, first.result.confidence, first.result.seed)
    users = {prompt: user for entrant in entrants for prompt, user in entrant.result.users.items()}
    recipes = [entrant.result.recipe for entrant in entrants]
    methods, keys = methods_of([entrant.label for entrant in entrants], recipes, by)
    spreads, remaining = base_spreads(first.result.rows), list(entrants)
    sides = [_side(method, [_taken(remaining, run) for run in method.runs]) for method in methods]
    varying = varying_keys(recipes)
    recipe_of = {entrant.label: entrant.result.recipe for entrant in entrants}
    return Comparison(
        reference=sides[0].label,
        confidence=first.result.confidence,
        by=keys,
        methods=methods,
        runs=[
            ComparedRun(
                run=entrant.label,
                step=entrant.result.step,
                macro=_macro(entrant.result, first.result.confidence),
                differs={key: flat_keys(entrant.result.recipe).get(key) for key in varying},
            )
            for entrant in entrants
        ],
        learning=learning_of(
            methods,
            records or {},
            areas_by_prompt=area_pairs(methods, records or {}, bootstrap, users),
            threshold=threshold,
            confidence=first.result.confidence,
        ),
        pairs=[pair for side in sides[1:] for pair in pairs_of(side, sides[0], bootstrap, users)],
        standardised=[
            pair
            for side in sides[1:]
            if (pair := standardised_pair(side, sides[0], bootstrap, users, spreads))
        ],
        notes=[
            *_notes(first, others),
            *_unit_notes(sides, spreads),
            *curve_notes(records or {}),
            *grouping_notes(methods, recipe_of, keys),
        ],
    )


def _records(runs: Mapping[str, RunDirectory]) -> tuple[dict[str, TrainingRecord], list[str]]:
    """What the runs recorded while they trained. Held-out curves are left out, which a note says, where runs
    measured them differently: their recipes may have other settings than the evaluations that are compared.
    """
    records = {label: training_record(run) for label, run in runs.items()}
    if curve_source(records) != "held-out":
        return records, []
    settings = {label: _curve_settings(run.recipe()) for label, run in runs.items()}
    first, *others = settings
    # Of each key the first run that differs is named: it is written last.
    differing = {
        key: f"{key}: {label} {settings[label][key]}, {first} {value}"
        for label in reversed(others)
        for key, value in settings[first].items()
        if settings[label][key] != value
    }
    if not differing:
        return records, []
    note = (
        "How fast: held-out curves were measured with different settings "
        f"({'; '.join(differing.values())}), so curves of training rewards are compared."
    )
    return {label: replace(record, held_out={}, prompts={}) for label, record in records.items()}, [note]


def _curve_settings(recipe: Recipe) -> dict[str, Any]:
    """What the curve of a run depends on, besides what all runs of a comparison have in common."""
    sampling = sampling_of(recipe.eval, recipe.rollout)
    return {**sampling, "max_prompts_per_group": recipe.eval.max_prompts_per_group}


def _macro(result: EvalResult, confidence: float) -> Estimate:
    """The mean over preference groups of the tuned model, with an interval of that confidence."""
    if result.confidence == confidence:
        return result.overall.macro.tuned
    _, tuned = shared_prompts(prompt_values(result.rows, "base"), prompt_values(result.rows, "tuned"))
    bootstrap = Bootstrap(result.bootstrap_samples, confidence, result.seed)
    return Resampler(bootstrap, result.users).mean(tuned, dict.fromkeys(tuned, 1.0))


def _eval_section(result: EvalResult) -> EvalSection:
    try:
        return EvalSection.model_validate(result.recipe.get("eval", {}))
    except ValidationError as error:
        raise EvalFileError(
            f"the evaluation of {result.run} is of settings that this pgrpo does not have",
            remedy="Evaluate it again: `pgrpo eval RUN --fresh`.",
        ) from error


def _taken(remaining: list[Entrant], label: str) -> Entrant:
    """The first entrant of that label, taken out: a run that is compared with itself comes twice."""
    return remaining.pop(next(i for i, entrant in enumerate(remaining) if entrant.label == label))


def refuse_fewer_than_two(count: int) -> None:
    """Raise RunError for a comparison of `count` runs, unless there are two or more."""
    if count < 2:
        raise RunError(
            f"a comparison needs at least two runs, got {count}", remedy="Name two or more of them."
        )


def refuse_incomparable(reference: str, ours: Header, other: str, theirs: Header) -> None:
    """Raise IncomparableError, naming each field that differs, unless both evaluations can be compared."""
    problems, remedies = [], []
    for field, remedy in COMPARABLE.items():
        if field == "model_files" and not other_files(ours, theirs):
            continue
        a, b = flat_keys(getattr(ours, field), field), flat_keys(getattr(theirs, field), field)
        keys = [key for key in {**a, **b} if a.get(key) != b.get(key)]
        problems += [f"  {key}: {b.get(key)!r}, there {a.get(key)!r}" for key in keys]
        remedies += [remedy] if keys else []
    if problems:
        raise IncomparableError(
            f"{other} cannot be compared with {reference}:\n" + "\n".join(problems),
            remedy="\n".join(remedies),
        )


def _try_to_write(page: Path) -> None:
    try:
        try_to_write(page.parent)
    except OSError as error:
        raise RunError(
            f"{page.parent} cannot be written: {error.strerror}",
            remedy="Name another place for the page: --html FILE.",
        ) from error


def _labels(runs: Sequence[Path]) -> list[str]:
    """The runs' directory names, or their paths where two different runs have one name."""
    paths = {run.resolve() for run in runs}
    if len({path.name for path in paths}) == len(paths):
        return [run.resolve().name for run in runs]
    return [str(run) for run in runs]


def _side(method: Method, members: Sequence[Entrant]) -> Side:
    values = tuple(prompt_values(entrant.result.rows, "tuned") for entrant in members)
    texts = tuple(texts_of(entrant.result.rows, "tuned") for entrant in members)
    return Side(method.label, tuple(method.seeds), values, texts)


def _unit_notes(sides: Sequence[Side], spreads: Mapping[str, float]) -> list[str]:
    """Why some methods have no difference in standard deviations."""
    missing = {side.label: scales_missing(side, sides[0], spreads) for side in sides[1:]}
    return [
        f"{label}: rewards of {', '.join(groups)} are all equal before training, so the difference in "
        "standard deviations is unknown."
        for label, groups in missing.items()
        if groups
    ]


def _notes(reference: Entrant, others: Sequence[Entrant]) -> list[str]:
    notes = []
    for other in others:
        if other.result.step != reference.result.step:
            notes.append(
                f"The adapter of {other.label} is that of step {other.result.step}, that of "
                f"{reference.label} is that of step {reference.result.step}."
            )
    for entrant in (reference, *others):
        notes += [f"{entrant.label}: {note}" for note in entrant.result.notes]
    return notes
