"""`pgrpo prepare`: from the recipe's source to prompts with preference groups, split, counted and checked."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pgrpo_cli.data import prepared
from pgrpo_cli.data.preference_groups import named_by_rows
from pgrpo_cli.data.prompts import PromptRenderer
from pgrpo_cli.data.records import (
    GroupedData,
    PreparedPrompt,
    PromptRecord,
    RejectedRow,
    SourceData,
    SourceRecord,
)
from pgrpo_cli.data.sources import SOURCES
from pgrpo_cli.data.sources.context import ReadContext
from pgrpo_cli.data.split import split_by_text
from pgrpo_cli.data.summary import GroupCounts, count_groups, count_reasons, warnings_about
from pgrpo_cli.errors import DataError, PgrpoError, RunError
from pgrpo_cli.recipe.schema import Recipe

# Called with (stage, done, total) as the work goes on.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` found. `groups` has the largest first, `rejected` counts rows by reason."""

    data_dir: Path
    unchanged: bool
    groups: tuple[GroupCounts, ...]
    rejected: dict[str, int]
    rejected_path: Path
    warnings: tuple[str, ...]
    data_hash: str

    @property
    def train_prompts(self) -> int:
        return sum(group.train_prompts for group in self.groups)

    @property
    def eval_prompts(self) -> int:
        return sum(group.eval_prompts for group in self.groups)


def prepare(
    recipe: Recipe,
    run_dir: Path,
    recipe_dir: Path,
    tokenizer: Any,
    *,
    context: int | None = None,
    progress: Progress | None = None,
) -> PrepareReport:
    """Write `run_dir/data` and report on it; the same input and seed give the same bytes.

    `recipe_dir` is where relative paths start, `context` the model's longest sequence in tokens. Raises
    DataError where the data cannot be used, ModelError for a tokenizer without chat template, RunError where
    checkpoints of the run were trained on other data, PgrpoError where the disk refuses. data/ changes on
    success only.
    """
    report_progress = progress or (lambda stage, done, total: None)
    renderer = PromptRenderer(
        tokenizer,
        recipe.model.system_prompt,
        recipe.data.max_prompt_tokens,
        recipe.rollout.max_completion_tokens,
        context,
        recipe.model.chat_template_kwargs,
    )
    report_progress("read", 0, 1)
    read = SOURCES[recipe.data.source.type](recipe.data.source, ReadContext(recipe_dir, recipe.seed))
    source = named_by_rows(_with_unique_ids(read))
    prompts, too_long = _render((*source.train, *(source.eval or ())), renderer, report_progress)
    rejected = [*source.rejected, *too_long]
    splits = _split(source, prompts, recipe)
    _require_prompts(source, splits, rejected)
    groups = count_groups(splits)
    description = _description(recipe, renderer, source, groups, rejected)
    report_progress("write", 0, 1)
    unchanged, manifest = _store(run_dir, splits, rejected, description)
    report_progress("write", 1, 1)
    return PrepareReport(
        run_dir / "data",
        unchanged,
        groups,
        description["rejected"],
        run_dir / "data" / prepared.REJECTED,
        tuple(warnings_about(source, groups)),
        manifest["data_hash"],
    )


def _with_unique_ids(source: SourceData) -> SourceData:
    """Equal rows have equal ids; from the second on they are numbered."""
    seen: Counter[str] = Counter()

    def numbered(record: SourceRecord) -> SourceRecord:
        seen[record.prompt_id] += 1
        count = seen[record.prompt_id]
        return record if count == 1 else replace(record, prompt_id=f"{record.prompt_id}-{count}")

    held_out = None if source.eval is None else tuple(map(numbered, source.eval))
    return replace(source, train=tuple(map(numbered, source.train)), eval=held_out)


def _render(
    records: Sequence[PromptRecord], renderer: PromptRenderer, progress: Progress
) -> tuple[dict[str, PreparedPrompt], list[RejectedRow]]:
    prompts: dict[str, PreparedPrompt] = {}
    rejected = []
    for done, record in enumerate(records, start=1):
        result = renderer(record)
        if isinstance(result, RejectedRow):
            rejected.append(result)
        else:
            prompts[result.prompt_id] = result
        progress("render", done, len(records))
    return prompts, rejected


def _split(
    source: GroupedData, prompts: dict[str, PreparedPrompt], recipe: Recipe
) -> dict[str, list[PreparedPrompt]]:
    train: Sequence[PromptRecord] = [record for record in source.train if record.prompt_id in prompts]
    evaluation: Sequence[PromptRecord] = [
        record for record in source.eval or () if record.prompt_id in prompts
    ]
    if source.eval is None:
        train, evaluation = split_by_text(train, recipe.data.eval_fraction, recipe.seed)
    return {
        "train": [prompts[record.prompt_id] for record in train],
        "eval": [prompts[record.prompt_id] for record in evaluation],
    }


def _require_prompts(
    source: GroupedData, splits: dict[str, list[PreparedPrompt]], rejected: Sequence[RejectedRow]
) -> None:
    if not splits["train"]:
        found = f"no rows at all in {', '.join(file.name for file in source.files) or 'the source'}"
        if rejected:
            counts = "; ".join(f"{count} x {reason}" for reason, count in count_reasons(rejected).items())
            found = f"{len(rejected)} rows rejected ({counts}); the first: {_shown(rejected[0])}"
        raise DataError(
            f"no prompt is left to train on: {found}",
            remedy="Correct the rows or the column names and limits under `data`.",
        )
    training = {prompt.preference_group for prompt in splits["train"]}
    for record in (*source.train, *(source.eval or ())):
        group = record.preference_group
        if group in training:
            continue
        lost = [row for row in rejected if row.preference_group == group]
        why = f"; {len(lost)} of its rows were rejected, the first: {_shown(lost[0])}" if lost else ""
        raise DataError(
            f"preference group {group!r} has no training prompt{why}",
            remedy="Give it training prompts, raise the limit that rejects them, or remove its rows.",
        )


def _shown(row: RejectedRow) -> str:
    return f"{row.where}: {row.reason} ({row.detail})"


def _description(
    recipe: Recipe,
    renderer: PromptRenderer,
    source: GroupedData,
    groups: Sequence[GroupCounts],
    rejected: Sequence[RejectedRow],
) -> dict[str, Any]:
    """What the manifest says besides the hashes of the files."""
    return {
        "seed": recipe.seed,
        "model": {
            "id": recipe.model.id,
            "chat_template_sha256": renderer.template_sha256,
            "chat_template_kwargs": recipe.model.chat_template_kwargs,
            "system_prompt": recipe.model.system_prompt,
            "max_completion_tokens": recipe.rollout.max_completion_tokens,
        },
        "data": recipe.data.model_dump(mode="json"),
        "sources": [vars(file) for file in source.files],
        "preference_groups": {
            group.preference_group: {"train": group.train_prompts, "eval": group.eval_prompts}
            for group in groups
        },
        "rejected": count_reasons(rejected),
    }


def _store(
    run_dir: Path,
    splits: dict[str, list[PreparedPrompt]],
    rejected: Sequence[RejectedRow],
    description: dict[str, Any],
) -> tuple[bool, dict[str, Any]]:
    """(whether data/ was the same already, the manifest)."""
    try:
        existing = _existing_manifest(run_dir)
        manifest = prepared.write_prepared(run_dir, splits, rejected, description)
        if existing is not None and existing["data_hash"] != manifest["data_hash"]:
            _refuse_if_trained_on(run_dir, existing, manifest)
        if existing == manifest and _intact(run_dir, manifest):
            prepared.discard(run_dir)
            return True, manifest
        prepared.publish(run_dir)
    except OSError as error:
        shutil.rmtree(run_dir / prepared.NEXT, ignore_errors=True)
        raise PgrpoError(
            f"the prepared data cannot be written to {run_dir}: {error.strerror or error}",
            remedy="Make room or choose another --run-dir; what was prepared before is untouched.",
        ) from error
    return False, manifest


def _existing_manifest(run_dir: Path) -> dict[str, Any] | None:
    try:
        return prepared.read_manifest(run_dir)
    except DataError:
        # Preparing again is the remedy for a manifest that cannot be read.
        return None


def _intact(run_dir: Path, manifest: dict[str, Any]) -> bool:
    try:
        prepared.verify(run_dir, manifest)
    except DataError:
        return False
    return True


def _refuse_if_trained_on(run_dir: Path, existing: dict[str, Any], manifest: dict[str, Any]) -> None:
    if not any((run_dir / "checkpoints").glob("step-*")):
        return
    prepared.discard(run_dir)
    keys = ("seed", "model", "data", "sources", "preference_groups", "rejected", "files")
    differing = [key for key in keys if existing.get(key) != manifest[key]]
    raise RunError(
        f"{run_dir} has checkpoints that were trained on other data: {', '.join(differing)} would differ",
        remedy="Prepare into another directory (--run-dir), or put data and recipe back as they were.",
    )
