"""The further tables of an evaluation: over preference groups, about each, and the parts of the reward."""

from __future__ import annotations

import math

from pgrpo_cli.stats.estimates import verdict, win_verdict
from pgrpo_cli.stats.result_types import (
    Contrast,
    Detail,
    Estimate,
    EvalResult,
    Judged,
    Preference,
    TaskScore,
    TaskScores,
)
from pgrpo_cli.stats.task_scores import task_label, task_verdict

from .tables import MACRO, TONES, Cell, ReportTable, interval, number, percent, percents

_MOST_NAMES = 4


def overview_table(result: EvalResult) -> ReportTable:
    """The tables besides the means: how gains are distributed, and how much of the base model is kept."""
    rows = [*_wins(result), *_shares(result), *_matrix(result), *_kept(result)]
    return ReportTable(
        title="Over preference groups",
        columns=("measure", "value", "note"),
        rows=tuple(rows),
        summaries=frozenset(),
        details=frozenset({1}),
        optional=frozenset(),
        texts=frozenset({2}),
    )


def details_table(result: EvalResult) -> ReportTable:
    """Win rate, who improves, effect size and divergence of each preference group."""
    total = math.fsum(result.weights.values()) or math.nan
    lines = [(group, result.details[group], result.weights[group] / total) for group in result.groups]
    lines.append((MACRO, result.macro_detail, math.nan))

    def row(label: str, detail: Detail, share: float) -> tuple[Cell, ...]:
        kl = result.kept.kl if label == MACRO else result.kept.groups.get(label)
        return (
            Cell(label),
            Cell(percent(share)),
            Cell(percent(detail.win_rate.mean), percents(detail.win_rate)),
            Cell(percent(detail.improved.mean), percents(detail.improved)),
            Cell(number(detail.effect.mean, signed=True), interval(detail.effect)),
            Cell(number(kl.mean), interval(kl)) if kl else Cell("n/a"),
        )

    columns = (
        "preference group",
        "of training",
        "win rate",
        "prompts improved",
        "gain in sd",
        "KL per token",
    )
    return ReportTable(
        title="Each preference group",
        columns=columns,
        rows=tuple(row(*line) for line in lines),
        summaries=frozenset({len(lines) - 1}),
        details=frozenset({2, 3, 4, 5}),
        optional=frozenset(),
    )


def parts_table(result: EvalResult) -> ReportTable:
    """Means of the reward's parts, base and tuned; the interval is that of the difference."""
    names = list(result.macro_detail.parts)
    lines = [*result.details.items(), (MACRO, result.macro_detail)]

    def cell(contrast: Contrast | None) -> Cell:
        if contrast is None or contrast.difference.n == 0:
            return Cell("n/a")
        text = f"{number(contrast.base.mean)} → {number(contrast.tuned.mean)}"
        return Cell(text, interval(contrast.difference), TONES[verdict(contrast.difference)])

    return ReportTable(
        title="Parts of the reward, base → tuned; in brackets the interval of tuned - base",
        columns=("preference group", *names),
        rows=tuple((Cell(label), *(cell(d.parts.get(name)) for name in names)) for label, d in lines),
        summaries=frozenset({len(lines) - 1}),
        details=frozenset(range(1, len(names) + 1)),
        optional=frozenset(),
    )


def judged_table(judged: Judged) -> ReportTable:
    """Which model a judge prefers: every preference group, then the mean over them."""

    def row(label: str, found: Preference) -> tuple[Cell, ...]:
        says = win_verdict(found.win_rate)
        return (
            Cell(label),
            Cell(percent(found.win.mean), percents(found.win)),
            Cell(percent(found.tie.mean), percents(found.tie)),
            Cell(percent(found.loss.mean), percents(found.loss)),
            Cell(percent(found.win_rate.mean), percents(found.win_rate)),
            Cell(says, tone=TONES[says]),
            Cell(str(found.pairs)),
            Cell(str(found.contradictions)),
            Cell(str(found.failed)),
        )

    lines = [*judged.groups.items(), (MACRO, judged.macro)]
    shares = ("wins", "ties", "losses", "win rate", "verdict")
    return ReportTable(
        title=f"Tuned against base by the judge {judged.judge['model']}, each pair in both orders",
        columns=("preference group", *shares, "pairs", "contradictions", "no answer"),
        rows=tuple(row(*line) for line in lines),
        summaries=frozenset({len(lines) - 1}),
        details=frozenset({4}),
        optional=frozenset({6, 7, 8}),
    )


def tasks_table(found: TaskScores) -> ReportTable:
    """General tasks, base against tuned. Tasks that are part of a group's score are left out."""

    def row(score: TaskScore) -> tuple[Cell, ...]:
        says, change = task_verdict(score), score.scores.difference
        return (
            Cell(task_label(score)),
            Cell(number(score.scores.base.mean)),
            Cell(number(score.scores.tuned.mean)),
            Cell(number(change.mean, signed=True), interval(change), TONES[says]),
            Cell(says, tone=TONES[says]),
            Cell({True: "higher", False: "lower", None: "n/a"}[score.higher_is_better]),
            Cell(str(change.n)),
        )

    return ReportTable(
        title=f"General tasks (lm-eval {found.lm_eval_version}), intervals over documents",
        columns=("task and metric", "base", "tuned", "tuned - base", "verdict", "better", "documents"),
        rows=tuple(row(score) for score in found.scores if score.part_of is None),
        summaries=frozenset(),
        details=frozenset({3}),
        optional=frozenset({5, 6}),
    )


def _wins(result: EvalResult) -> list[tuple[Cell, ...]]:
    macro = result.macro_detail
    return [
        (
            Cell("win rate"),
            _share(macro.win_rate),
            Cell("pairs of completions that the tuned model wins; 50 %: equal"),
        ),
        (Cell("prompts improved"), _share(macro.improved), Cell("mean reward of the prompt rises")),
    ]


def _shares(result: EvalResult) -> list[tuple[Cell, ...]]:
    found = result.fairness
    rows: list[tuple[Cell, ...]] = []
    if found.worst is not None:
        rows.append((Cell("worst gain"), _gain(found.worst.gain), Cell(found.worst.preference_group)))
    if not math.isnan(found.range):
        text = f"std {number(found.std)}, without noise {number(found.std_beyond_noise)}"
        rows.append((Cell("largest - smallest gain"), Cell(number(found.range)), Cell(text)))
        rows.append((Cell("Jain's index"), Cell(number(found.jain)), Cell(_on_jain(result))))
    minority = found.minority
    if not math.isnan(minority.gap.mean):
        few = minority.preference_groups
        names = ", ".join(few) if len(few) <= _MOST_NAMES else f"{len(few)} of {len(result.groups)} groups"
        note = f"gain {number(minority.minority.mean)} against {number(minority.majority.mean)}: {names}"
        rows.append((Cell("minority - majority"), _gain(minority.gap), Cell(note)))
    return rows


def _on_jain(result: EvalResult) -> str:
    """What the index means, or why it is unknown."""
    counted = [group for group, contrast in result.groups.items() if contrast.difference.n > 0]
    unknown = [group for group in counted if math.isnan(result.details[group].effect.mean)]
    if unknown:
        return f"unknown: base rewards of {', '.join(unknown[:_MOST_NAMES])} have no spread"
    return f"1: all gain alike, {1 / len(counted):.2f}: only one does, 0: none"


def _matrix(result: EvalResult) -> list[tuple[Cell, ...]]:
    if result.matrix is None:
        return []
    margin = result.matrix.margin
    note = f"own reward less others', in std; {number(margin.base.mean)} → {number(margin.tuned.mean)}"
    return [(Cell("personalization"), _gain(margin.difference), Cell(note))]


def _kept(result: EvalResult) -> list[tuple[Cell, ...]]:
    kept = result.kept
    base, tuned = kept.base, kept.tuned
    rows: list[tuple[Cell, ...]] = [
        (Cell("KL to the base"), Cell(number(kept.kl.mean), interval(kept.kl)), Cell("nats per token")),
        (Cell("perplexity"), _change(base.perplexity, tuned.perplexity), Cell("of a neutral text")),
        (Cell("length"), _change(base.length, tuned.length), Cell("tokens per completion")),
        (
            Cell("distinct words"),
            Cell(f"{number(base.distinct_1)} → {number(tuned.distinct_1)}"),
            Cell(f"pairs of words {number(base.distinct_2)} → {number(tuned.distinct_2)}"),
        ),
        (
            Cell("truncated"),
            Cell(f"{percent(base.truncated)} → {percent(tuned.truncated)}"),
            Cell("completions cut at the limit"),
        ),
    ]
    return rows


def _gain(estimate: Estimate) -> Cell:
    return Cell(number(estimate.mean, signed=True), interval(estimate), TONES[verdict(estimate)])


def _share(estimate: Estimate) -> Cell:
    return Cell(percent(estimate.mean), percents(estimate))


def _change(base: float, tuned: float) -> Cell:
    def short(value: float) -> str:
        return "n/a" if math.isnan(value) else f"{value:.4g}"

    return Cell(f"{short(base)} → {short(tuned)}")
