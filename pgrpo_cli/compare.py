"""`pgrpo compare`: which run serves whom better, on the same held-out prompts, and whether that is noise."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pgrpo_cli.algo.intervals import Bootstrap
from pgrpo_cli.errors import IncomparableError, RunError
from pgrpo_cli.evaluate import Progress, evaluate_run
from pgrpo_cli.recipe.training import EvalSection
from pgrpo_cli.report.summary import PromptValues, paired_difference, prompt_values, shared_prompts, verdict
from pgrpo_cli.report.types import ComparedRun, Comparison, EvalResult, Header, Pair
from pgrpo_cli.state.run import RunDirectory
from pgrpo_cli.state.subject import kept_result, subject_of

# What two evaluations must have in common, and how to get there.
COMPARABLE = {
    "data_hash": "Prepare both from the same data: the same `data`, `model` and `seed` in the recipe.",
    "model": "Compare runs of the same base model.",
    "rewards": "Evaluate both with the same rewards.",
    "sampling": "Evaluate both with the same settings: `pgrpo eval RUN --set eval.KEY=VALUE`.",
    "max_prompts_per_group": "Evaluate both with `pgrpo eval RUN --set eval.max_prompts_per_group=N`.",
}

# Recipe keys that change nothing about what a run learns.
_IMMATERIAL = ("name", "log.", "eval.")


@dataclass(frozen=True)
class Entrant:
    """One run of a comparison: the label that it goes by, and its evaluation."""

    label: str
    result: EvalResult


def entrants_of(
    runs: Mapping[str, RunDirectory],
    *,
    allow_code: bool = False,
    allowed_hosts: Collection[str] = (),
    on_note: Callable[[str], None] = lambda text: None,
    progress: Progress | None = None,
) -> list[Entrant]:
    """The evaluation of each run's newest adapter by the run's label: the one it keeps, else a new one.

    New ones take the settings of the first kept one, so that they can be compared, and share its base rows.
    Whether the runs can be compared at all is found out before any is evaluated. `on_note` takes
    sentences for the user. Raises IncomparableError, and what `subject_of` and `evaluate_run` raise.
    """
    subjects = {label: subject_of(run, run.recipe(), run.recipe_dir) for label, run in runs.items()}
    results = {label: kept_result(subject, any_settings=True) for label, subject in subjects.items()}
    known = [result for result in results.values() if result is not None]
    if known:
        section = EvalSection.model_validate(known[0].recipe["eval"])
        for label in [label for label, result in results.items() if result is None]:
            subject = subjects[label]
            recipe = subject.recipe.model_copy(update={"eval": section})
            subjects[label] = subject_of(subject.run, recipe, subject.recipe_dir)
    headers = [(label, results[label] or subject.header) for label, subject in subjects.items()]
    for label, header in headers[1:]:
        refuse_incomparable(*headers[0], label, header)
    entrants = []
    for label, subject in subjects.items():
        for warning in subject.warnings:
            on_note(f"warning: {warning}")
        result = results[label]
        if result is None:
            on_note(f"{label} keeps no evaluation of its newest adapter: evaluating it now")
            result = evaluate_run(
                subject,
                allow_code=allow_code,
                allowed_hosts=allowed_hosts,
                others=known,
                progress=progress,
                on_note=on_note,
            )
            known.append(result)
        entrants.append(Entrant(label, result))
    return entrants


def compare(entrants: Sequence[Entrant]) -> Comparison:
    """Every later run against the first, by preference group and over them (macro), paired by prompt.

    Intervals are made with the first run's bootstrap settings. Raises RunError for fewer than two runs and
    IncomparableError for runs that cannot be compared, naming the fields that differ.
    """
    refuse_fewer_than_two(len(entrants))
    reference, *others = entrants
    for other in others:
        refuse_incomparable(reference.label, reference.result, other.label, other.result)
    bootstrap = Bootstrap(
        reference.result.bootstrap_samples, reference.result.confidence, reference.result.seed
    )
    varying = _varying_keys([entrant.result.recipe for entrant in entrants])
    return Comparison(
        reference=reference.label,
        confidence=reference.result.confidence,
        runs=[
            ComparedRun(
                run=entrant.label,
                step=entrant.result.step,
                macro=entrant.result.overall.macro.tuned,
                differs={key: flat_keys(entrant.result.recipe).get(key) for key in varying},
            )
            for entrant in entrants
        ],
        pairs=[pair for other in others for pair in _pairs(reference, other, bootstrap)],
        notes=_notes(reference, others),
    )


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
        a, b = flat_keys(getattr(ours, field), field), flat_keys(getattr(theirs, field), field)
        keys = [key for key in {**a, **b} if a.get(key) != b.get(key)]
        problems += [f"  {key}: {b.get(key)!r}, there {a.get(key)!r}" for key in keys]
        remedies += [remedy] if keys else []
    if problems:
        raise IncomparableError(
            f"{other} cannot be compared with {reference}:\n" + "\n".join(problems),
            remedy="\n".join(remedies),
        )


def flat_keys(value: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested mappings and lists by dotted key: {"a": {"b": [1]}} becomes {"a.b.0": 1}."""
    items: Any = (
        enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else None
    )
    if items is None or not value:
        return {prefix: value}
    start = f"{prefix}." if prefix else ""
    return {leaf: found for key, entry in items for leaf, found in flat_keys(entry, f"{start}{key}").items()}


def _varying_keys(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    flat = [flat_keys(recipe) for recipe in recipes]
    keys = dict.fromkeys(key for recipe in flat for key in recipe)
    return [
        key
        for key in keys
        if not key.startswith(_IMMATERIAL) and any(recipe.get(key) != flat[0].get(key) for recipe in flat[1:])
    ]


def _pairs(reference: Entrant, other: Entrant, bootstrap: Bootstrap) -> list[Pair]:
    values, theirs = shared_prompts(_tuned(other), _tuned(reference))
    selections: list[tuple[str | None, list[str]]] = [(group, [group]) for group in values]
    selections.append((None, list(values)))
    pairs = []
    for name, groups in selections:
        chosen = {g: values[g] for g in groups}
        difference = paired_difference(chosen, theirs, dict.fromkeys(groups, 1.0), bootstrap)
        pairs.append(
            Pair(
                run=other.label,
                reference=reference.label,
                preference_group=name,
                difference=difference.mean,
                ci_low=difference.ci_low,
                ci_high=difference.ci_high,
                n=difference.n,
                verdict=verdict(difference),
            )
        )
    return pairs


def _tuned(entrant: Entrant) -> PromptValues:
    return prompt_values(entrant.result.rows, "tuned")


def _notes(reference: Entrant, others: Sequence[Entrant]) -> list[str]:
    notes = []
    for other in others:
        if other.result.step != reference.result.step:
            notes.append(
                f"{other.label} was trained for {other.result.step} steps, "
                f"{reference.label} for {reference.result.step}."
            )
    for entrant in (reference, *others):
        notes += [f"{entrant.label}: {note}" for note in entrant.result.notes]
    return notes
