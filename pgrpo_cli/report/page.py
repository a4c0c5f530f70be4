"""One self-contained HTML page about an evaluation or a comparison: no request, phone-readable.

Its only script sorts tables. The page's own policy names that script by its hash, so that nothing else runs,
whatever completions and names may hold.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pgrpo_cli import __version__
from pgrpo_cli.diagnosis.finding import Diagnosis
from pgrpo_cli.recipe.resolved import as_yaml
from pgrpo_cli.stats.comparison import Comparison
from pgrpo_cli.stats.curves import group_curves, half_life_of, macro_curve
from pgrpo_cli.stats.estimates import verdict
from pgrpo_cli.stats.learning import TrainingRecord
from pgrpo_cli.stats.matrix import standardised
from pgrpo_cli.stats.result_types import CurvePoint, Estimate, EvalResult, Verdict, Which

from .heat_map import heat_map
from .method_panels import MOST_PANELS, Panel, method_panels
from .more_tables import details_table, judged_table, overview_table, parts_table, tasks_table
from .sentences import (
    chance_sentence,
    comparison_sentence,
    eval_sentence,
    grouping_sentence,
    judged_sentence,
    learning_sentence,
    matrix_sentence,
    method_sentence,
    tasks_sentence,
)
from .svg import COLOURS, ForestRow, Series, forest_plot, line_panel
from .tables import MACRO, TONES, comparison_table, eval_table, learning_table, number

__all__ = ["MOST_PANELS", "SAMPLES_PER_GROUP", "comparison_page", "eval_page"]

_MODELS: tuple[Which, Which] = ("base", "tuned")
# Steps; so short that a smoothed curve is the raw one.
_UNSMOOTHED = 1e-3
SAMPLES_PER_GROUP = 2
_BASE_MODEL = "base model"

Points = Sequence[CurvePoint]


def eval_page(
    result: EvalResult, points: Points, diagnosis: Diagnosis | None = None, held_out: Points = ()
) -> str:
    """The page about one evaluation; `points` is the run's training reward by step and preference group,
    `diagnosis` what is found in its training, `held_out` its held-out reward in training, in the same form.
    """
    return _render(
        "eval.html",
        result=result,
        diagnosis=diagnosis,
        headline=eval_sentence(result),
        method=method_sentence(result),
        chance=chance_sentence(result.confidence, len(result.groups)),
        table=eval_table(result),
        forest=_eval_forest(result),
        overview=overview_table(result),
        details=details_table(result),
        parts_of_reward=parts_table(result),
        judged=judged_table(result.judged) if result.judged else None,
        matrix_says=matrix_sentence(result.matrix) if result.matrix else "",
        judged_says=judged_sentence(result.judged) if result.judged else "",
        tasks=tasks_table(result.lm_eval) if result.lm_eval else None,
        tasks_say=tasks_sentence(result.lm_eval) if result.lm_eval else "",
        heat_maps=_heat_maps(result),
        held_out=_curves({result.run: held_out}, half_life=_UNSMOOTHED)["panels"],
        labels=[],
        **_curves({result.run: points}),
        samples=_samples(result, [("base", result, "base"), ("tuned", result, "tuned")]),
        provenance=_provenance(result),
        recipe=as_yaml(result.recipe),
    )


def comparison_page(
    comparison: Comparison, results: Mapping[str, EvalResult], records: Mapping[str, TrainingRecord]
) -> str:
    """The page about a comparison; `results`, and `records` of training, go by the labels of its runs."""
    labels = list(dict.fromkeys(run.run for run in comparison.runs))
    reference = results[comparison.runs[0].run]
    others = list(dict.fromkeys(pair.run for pair in comparison.pairs))
    # One run speaks for its method: seeds side by side would be many columns that say the same.
    shown = {method.label: results[method.runs[0]] for method in comparison.methods}
    answers: list[tuple[str, EvalResult, Which]] = [(_BASE_MODEL, reference, "base")]
    answers += [(_tuned(label), result, "tuned") for label, result in shown.items()]
    return _render(
        "compare.html",
        comparison=comparison,
        headlines=[comparison_sentence(comparison, run) for run in others],
        method=f"{method_sentence(reference)} {grouping_sentence(comparison)}",
        against=[
            {
                "run": run,
                "table": comparison_table(comparison, run),
                "forest": _comparison_forest(comparison, run),
            }
            for run in others
        ],
        labels=list(shown),
        heat_maps=_compared_maps(reference, shown),
        rewards=", ".join(reference.matrix.rewards) if reference.matrix else "",
        **method_panels(comparison.methods, {label: records[label] for label in labels}),
        how_fast=learning_table(comparison),
        how_fast_says=learning_sentence(comparison),
        samples=_samples(reference, answers),
        differing=_differing(comparison),
        provenance=[{"label": label, "rows": _provenance(results[label])} for label in labels],
    )


def _render(template: str, **content: Any) -> str:
    environment = Environment(
        loader=PackageLoader(__package__, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = resources.files(__package__).joinpath("templates", "sort.js").read_text(encoding="utf-8")
    return environment.get_template(template).render(
        pgrpo_version=__version__, script=Markup(script), script_hash=_policy_hash(script), **content
    )


def _policy_hash(script: str) -> str:
    """How a content security policy names an inline script (W3C CSP level 2)."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _eval_forest(result: EvalResult) -> Markup:
    rows = [_forest_row(MACRO, result.overall.macro.difference, summary=True)]
    rows += [_forest_row(group, contrast.difference) for group, contrast in result.groups.items()]
    return forest_plot("Change of mean reward by training", rows, x_label="tuned minus base, reward")


def _comparison_forest(comparison: Comparison, run: str) -> Markup:
    pairs = {pair.preference_group: pair for pair in comparison.pairs if pair.run == run}
    rows = [
        ForestRow(
            label=MACRO if group is None else group,
            mean=pair.difference,
            low=pair.ci_low,
            high=pair.ci_high,
            tone=TONES[pair.verdict],
            summary=group is None,
        )
        for group, pair in sorted(pairs.items(), key=lambda item: (item[0] is not None, item[0] or ""))
    ]
    return forest_plot(
        f"{run} against {comparison.reference}", rows, x_label=f"{run} minus {comparison.reference}, reward"
    )


def _forest_row(label: str, difference: Estimate, *, summary: bool = False) -> ForestRow:
    says: Verdict = verdict(difference)
    return ForestRow(label, difference.mean, difference.ci_low, difference.ci_high, TONES[says], summary)


def _heat_maps(result: EvalResult) -> list[Panel]:
    """Base and tuned: completions for each preference group by the reward of each, by column."""
    matrix = result.matrix
    if matrix is None:
        return []
    names = matrix.preference_groups
    return [Panel(which, heat_map(f"{which} model", names, standardised(matrix, which))) for which in _MODELS]


def _compared_maps(reference: EvalResult, shown: Mapping[str, EvalResult]) -> list[Panel]:
    """The base model's map, then each method's tuned one, by its first run; nothing unless all have one.

    All are standardised by the reference's columns, so that colours can be compared.
    """
    matrices = {label: result.matrix for label, result in shown.items()}
    base = reference.matrix
    if base is None or any(
        m is None or m.preference_groups != base.preference_groups for m in matrices.values()
    ):
        return []
    columns = {"centers": base.centers, "scales": base.scales}
    cells = standardised(base, "base")
    panels = [Panel(_BASE_MODEL, heat_map(_BASE_MODEL, base.preference_groups, cells))]
    for label, matrix in matrices.items():
        assert matrix is not None
        cells = standardised(matrix.model_copy(update=columns), "tuned")
        panels.append(Panel(_tuned(label), heat_map(_tuned(label), base.preference_groups, cells)))
    return panels


def _tuned(label: str) -> str:
    """The adapter of a run or method: never the base model's label, whatever the run is called."""
    return f"{label}, tuned"


def _curves(points: Mapping[str, Points], half_life: float | None = None) -> dict[str, Any]:
    """The panels: the macro mean, then preference groups from the most to the least sampled."""
    half_life = half_life or max(half_life_of(found) for found in points.values())
    curves = {label: group_curves(found, half_life) for label, found in points.items()}
    counts: dict[str, int] = {}
    for found in points.values():
        for _, group, _, count in found:
            counts[group] = counts.get(group, 0) + count
    groups = sorted(counts, key=lambda group: (-counts[group], group))
    lines = {MACRO: {label: macro_curve(found) for label, found in curves.items() if found}}
    for group in groups[:MOST_PANELS]:
        lines[group] = {label: found[group] for label, found in curves.items() if group in found}
    steps = [step for found in points.values() for step, *_ in found]
    x_range = (min(steps, default=0), max(steps, default=1))
    colours = {label: index % COLOURS for index, label in enumerate(points)}
    panels = [
        Panel(
            title,
            line_panel(
                f"Learning curve: {title}",
                [Series(label, curve, colours[label]) for label, curve in found.items()],
                x_range=x_range,
                x_label="step",
                y_label="reward",
            ),
        )
        for title, found in lines.items()
        if found
    ]
    return {"panels": panels, "hidden": max(0, len(groups) - MOST_PANELS), "half_life": f"{half_life:.3g}"}


def _samples(
    prompts_of: EvalResult, answers: Sequence[tuple[str, EvalResult, Which]]
) -> list[dict[str, Any]]:
    """The first completion of each labelled model to the first prompts of each preference group."""
    rows = [
        {
            (r.preference_group, r.prompt_id): r
            for r in result.rows
            if r.which == which and r.completion_index == 0
        }
        for _, result, which in answers
    ]
    labels = [label for label, _, _ in answers]
    samples = []
    for group in prompts_of.groups:
        shared = sorted(key for key in rows[0] if key[0] == group and all(key in found for found in rows))
        samples.append(
            {
                "name": group,
                "samples": [
                    {
                        "prompt_id": key[1],
                        "prompt": prompts_of.prompts[key[1]],
                        "answers": [
                            {"label": label, "reward": number(found[key].reward), "text": found[key].text}
                            for label, found in zip(labels, rows, strict=True)
                        ],
                    }
                    for key in shared[:SAMPLES_PER_GROUP]
                ],
            }
        )
    return samples


def _differing(comparison: Comparison) -> list[tuple[str, ...]]:
    runs = comparison.runs
    keys = runs[0].differs
    if not keys:
        return [("nothing besides their names",)]
    return [
        ("key", *(run.run for run in runs)),
        *((key, *(str(run.differs[key]) for run in runs)) for key in keys),
    ]


def _provenance(result: EvalResult) -> list[tuple[str, str]]:
    sampling = ", ".join(f"{key} {value}" for key, value in result.sampling.items())
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    return [
        ("Run", f"{result.run}, step {result.step}"),
        ("Model", str(result.model["id"])),
        ("Sampling", f"{sampling}; seed {result.seed}"),
        ("Versions", versions),
        ("Recipe (SHA-256)", result.recipe_hash),
        ("Data (SHA-256)", result.data_hash),
        ("Adapter (SHA-256)", result.adapter_hash),
    ]
