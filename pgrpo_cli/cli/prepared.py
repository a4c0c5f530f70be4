"""What `prepare` found, for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from rich.table import Table

from .terminal import note, show_table, stderr

if TYPE_CHECKING:
    from pgrpo_cli.data.summary import GroupCounts
    from pgrpo_cli.verbs.prepare import PrepareReport

_SHOWN_REJECTED = 5
_SHOWN_GROUPS = 20
_BAR_WIDTH = 40
_DISTINCTIVE = 3


def show_report(report: PrepareReport) -> None:
    """Print the counts a preference group, lengths, clusters, what was rejected and why, and warnings; all to
    standard error.
    """
    show_table(_groups_table(report), stderr)
    for line in _about_the_table(report):
        note(line)
    note("")
    for line in (
        *_lengths(report),
        *report.notes,
        *_clusters(report.clusters),
        *_told_apart(report),
        *_rejected(report),
    ):
        note(line)
    for warning in report.warnings:
        note(warning, "warning: ", "bold yellow")
    note(
        f"{report.data_dir}: {report.train_prompts} training prompts, {report.eval_prompts} held out"
        + (" (unchanged)" if report.unchanged else "")
    )


def report_json(report: PrepareReport) -> dict[str, Any]:
    """The report as JSON values."""
    return {
        "data_dir": str(report.data_dir),
        "data_hash": report.data_hash,
        "unchanged": report.unchanged,
        "train_prompts": report.train_prompts,
        "eval_prompts": report.eval_prompts,
        "preference_groups": {group.preference_group: _counts(group) for group in report.groups},
        "conditioning": None if report.told_apart is None else report.told_apart.as_json(),
        "clusters": report.clusters,
        "rejected": report.rejected,
        "left_out": report.left_out,
        "notes": report.notes,
        "warnings": report.warnings,
    }


def _counts(group: GroupCounts) -> dict[str, Any]:
    return {name: value for name, value in vars(group).items() if name != "preference_group"}


def _groups_table(report: PrepareReport) -> Table:
    with_users = any(group.users is not None for group in report.groups)
    table = Table(box=None, pad_edge=False)
    table.add_column("preference group", overflow="fold")
    for heading in ("users",) * with_users + ("train", "share", "held out", "tokens: mean", "95 %", "max"):
        table.add_column(heading, justify="right")
    if _has_references(report):
        table.add_column("reference reward", justify="right")
    for group in report.groups[:_SHOWN_GROUPS]:
        cells = [group.preference_group]
        if with_users:
            cells.append("-" if group.users is None else str(group.users))
        cells += [
            str(group.train_prompts), f"{group.share:.1%}", str(group.eval_prompts),
            f"{group.tokens_mean:.0f}", str(group.tokens_p95), str(group.tokens_max),
        ]  # fmt: skip
        if _has_references(report):
            cells.append(_reference(report, group))
        table.add_row(*cells)
    return table


def _about_the_table(report: PrepareReport) -> Iterator[str]:
    if (more := len(report.groups) - _SHOWN_GROUPS) > 0:
        prompts = sum(group.train_prompts for group in report.groups[_SHOWN_GROUPS:])
        yield f"and {more} smaller preference groups with {prompts} training prompts in all"
    yield "train and held out: prompts to learn from, and to evaluate on. tokens: how long prompts are; 95 %"
    yield "of them are no longer than the second number."
    if report.references is not None and report.references.by_group:
        scored, left_out = report.references.scored, report.references.left_out
        without = f", without {', '.join(left_out)}" if left_out else ""
        yield (
            f"reference reward: mean ± standard deviation over reference answers, by {', '.join(scored)}"
            + (f"{without}.")
        )


def _has_references(report: PrepareReport) -> bool:
    return report.references is not None and bool(report.references.by_group)


def _reference(report: PrepareReport, group: GroupCounts) -> str:
    assert report.references is not None
    found = report.references.by_group.get(group.preference_group)
    if found is None:
        return "-"
    mean, deviation = found
    return f"{mean:.2f}" if deviation is None else f"{mean:.2f} ± {deviation:.2f}"


def _lengths(report: PrepareReport) -> Iterator[str]:
    """A bar chart of the prompts' lengths."""
    yield f"Length of prompts, in tokens (data.max_prompt_tokens: {report.max_prompt_tokens})"
    most = max(bar.count for bar in report.lengths)
    labels = [
        f"{bar.low}-{bar.high - 1}" if bar.high - bar.low > 1 else str(bar.low) for bar in report.lengths
    ]
    width = max(map(len, labels))
    for bar, label in zip(report.lengths, labels, strict=True):
        # At least one block, so that a bar of one prompt beside one of thousands can still be seen.
        blocks = max(1, round(_BAR_WIDTH * bar.count / most)) if bar.count else 0
        yield f"  {label:>{width}}  {'█' * blocks}{' ' if blocks else ''}{bar.count}"


def _clusters(clusters: Mapping[str, Any] | None) -> Iterator[str]:
    """How many clusters and why, and what sets each apart."""
    if clusters is None:
        return
    of = {"profile": "profile", "tfidf": "words", "embedding": "texts' meaning"}[clusters["features"]]
    yield f"Clusters: {clusters['users']} users in {clusters['count']}, by their {of}"
    scores = ", ".join(f"{count}: {value:.3f}" for count, value in clusters["silhouettes"].items())
    yield f"  silhouette by number: {scores}"
    yield "  (1: users fall apart clearly; under 0.25 they shade into each other; 0: not at all)"
    verdict = "better than chance" if clusters["better_than_chance"] else "no better than chance"
    yield f"  shuffled features reach {clusters['shuffled_silhouette']:.3f}: the clusters are {verdict}"
    yield f"  from seed to seed (adjusted Rand index, 1: the same clusters): {clusters['stability']:.2f}"
    for cluster in clusters["clusters"]:
        shown = islice(cluster["distinctive"].items(), _DISTINCTIVE)
        features = ", ".join(f"{name} {value:+.2f}" for name, value in shown) or "nothing"
        yield f"  {cluster['name']} ({cluster['users']} users) stands out by: {features}"


def _told_apart(report: PrepareReport) -> Iterator[str]:
    """Whether the model can tell who asks; what is wrong with it is a warning."""
    found = report.told_apart
    if found is None or found.classifier_accuracy is None or found.chance is None:
        return
    yield (
        "Can the model tell who asks? A plain classifier names the preference group of "
        f"{found.classifier_accuracy:.0%} of"
    )
    yield (
        f"{found.tried} held-out prompts by their text; always naming the largest one would be right for "
        f"{found.chance:.0%}."
    )


def _rejected(report: PrepareReport) -> Iterator[str]:
    for reason, count in report.left_out.items():
        yield f"left out: {count} x {reason}"
    for reason, count in report.rejected.items():
        yield f"rejected: {count} x {reason}"
    if report.rejected or report.left_out:
        yield from (f"  {line}" for line in _first_rejected(report))
        yield f"all rows that are not used, with their reasons: {report.rejected_path}"


def _first_rejected(report: PrepareReport) -> list[str]:
    """Where the first few rejected rows stand, and what is wrong with them; of left-out ones if all are."""
    with report.rejected_path.open(encoding="utf-8") as file:
        listed = (row for row in map(json.loads, file) if not (report.rejected and row["left_out"]))
        rows = list(islice(listed, _SHOWN_REJECTED))
    places = (f"{row['file']}:{row['line']}" if row["line"] else row["file"] for row in rows)
    return [f"{place}: {row['reason']}" for place, row in zip(places, rows, strict=True)]
