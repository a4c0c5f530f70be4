"""`pgrpo prepare`: from the recipe's source to prompts with preference groups, split, counted and checked."""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .data import prepared
from .data.prompts import PromptRenderer
from .data.records import PreparedPrompt, PromptRecord, RejectedRow, SourceData, text_key
from .data.sources import SOURCES
from .data.split import split_by_text
from .errors import DataError, PgrpoError, RunError
from .recipe.schema import Recipe

# Under so many prompts a preference group's spread is a guess and every epoch repeats the same few.
FEW_PROMPTS = 16

# Called with (stage, done, total) as the work goes on.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class GroupCounts:
    """One preference group in the prepared data. `share` is its part of the training prompts; lengths in tokens."""

    preference_group: str
    train_prompts: int
    share: float
    eval_prompts: int
    tokens_mean: float
    tokens_max: int


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` found, for a person to read. `groups` are ordered by size, `rejected` by reason's count."""

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

    `recipe_dir` is where relative paths start, `context` the model's longest sequence in tokens. Raises DataError
    where the data cannot be used, ModelError for a tokenizer without chat template, RunError where checkpoints of
    the run were trained on other data, PgrpoError where the disk refuses. data/ changes only on success.
    """
    report_progress = progress or (lambda stage, done, total: None)
    renderer = PromptRenderer(
        tokenizer,
        recipe.model.system_prompt,
        recipe.data.max_prompt_tokens,
        recipe.rollout.max_completion_tokens,
        context,
    )
    report_progress("read", 0, 1)
    source = SOURCES[recipe.data.source.type](recipe.data.source, recipe_dir, recipe.seed)
    splits, rejected = _render(_splits(source, recipe), renderer, source.rejected, report_progress)
    _require_prompts(source, splits, rejected)
    groups = _count(splits)
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
        tuple(_warnings(source, groups)),
        manifest["data_hash"],
    )


def _splits(source: SourceData, recipe: Recipe) -> dict[str, Sequence[PromptRecord]]:
    if source.eval is not None:
        return {"train": source.train, "eval": source.eval}
    train, evaluation = split_by_text(source.train, recipe.data.eval_fraction, recipe.seed)
    return {"train": train, "eval": evaluation}


def _render(
    records: dict[str, Sequence[PromptRecord]],
    renderer: PromptRenderer,
    rejected_by_source: Iterable[RejectedRow],
    progress: Progress,
) -> tuple[dict[str, list[PreparedPrompt]], list[RejectedRow]]:
    splits: dict[str, list[PreparedPrompt]] = {split: [] for split in records}
    rejected = list(rejected_by_source)
    total = sum(len(part) for part in records.values())
    done, seen = 0, Counter[str]()
    for split, part in records.items():
        for record in part:
            result = renderer(record)
            if isinstance(result, RejectedRow):
                rejected.append(result)
            else:
                seen[result.prompt_id] += 1
                splits[split].append(_with_unique_id(result, seen[result.prompt_id]))
            done += 1
            progress("render", done, total)
    return splits, rejected


def _with_unique_id(prompt: PreparedPrompt, occurrence: int) -> PreparedPrompt:
    """Equal rows have equal ids; from the second on they are numbered."""
    return prompt if occurrence == 1 else replace(prompt, prompt_id=f"{prompt.prompt_id}-{occurrence}")


def _require_prompts(
    source: SourceData, splits: dict[str, list[PreparedPrompt]], rejected: Sequence[RejectedRow]
) -> None:
    if not splits["train"]:
        found = "no rows at all"
        if rejected:
            counts = "; ".join(f"{count} x {reason}" for reason, count in _by_reason(rejected).items())
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


def _by_reason(rejected: Iterable[RejectedRow]) -> dict[str, int]:
    counts = Counter(row.reason for row in rejected)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _count(splits: dict[str, list[PreparedPrompt]]) -> tuple[GroupCounts, ...]:
    prompts: dict[str, dict[str, list[PreparedPrompt]]] = defaultdict(lambda: {"train": [], "eval": []})
    for split, members in splits.items():
        for prompt in members:
            prompts[prompt.preference_group][split].append(prompt)
    groups = []
    for name, members_of in prompts.items():
        lengths = [len(prompt.input_ids) for part in members_of.values() for prompt in part]
        train = len(members_of["train"])
        share = train / len(splits["train"])
        mean = sum(lengths) / len(lengths)
        groups.append(GroupCounts(name, train, share, len(members_of["eval"]), mean, max(lengths)))
    return tuple(sorted(groups, key=lambda group: (-group.train_prompts, group.preference_group)))


def _description(
    recipe: Recipe,
    renderer: PromptRenderer,
    source: SourceData,
    groups: Sequence[GroupCounts],
    rejected: Sequence[RejectedRow],
) -> dict[str, Any]:
    """What the manifest says besides the hashes of the files."""
    return {
        "seed": recipe.seed,
        "model": {
            "id": recipe.model.id,
            "chat_template_sha256": renderer.template_sha256,
            "system_prompt": recipe.model.system_prompt,
            "max_completion_tokens": recipe.rollout.max_completion_tokens,
        },
        "max_prompt_tokens": recipe.data.max_prompt_tokens,
        "data": recipe.data.model_dump(mode="json"),
        "sources": [vars(file) for file in source.files],
        "preference_groups": {
            group.preference_group: {"train": group.train_prompts, "eval": group.eval_prompts}
            for group in groups
        },
        "rejected": _by_reason(rejected),
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
        remedy="Prepare into another directory (--run-dir), or put the data and the recipe back as they were.",
    )


def _warnings(source: SourceData, groups: Sequence[GroupCounts]) -> Iterable[str]:
    for group in groups:
        if group.train_prompts < FEW_PROMPTS:
            yield (
                f"preference group {group.preference_group!r} has only {group.train_prompts} training prompts; "
                f"under {FEW_PROMPTS} its rewards' spread is a guess"
            )
        if group.eval_prompts == 0:
            yield f"preference group {group.preference_group!r} has no held-out prompts, so it cannot be evaluated"
    lost = {row.preference_group for row in source.rejected if row.preference_group is not None}
    for name in sorted(lost - {group.preference_group for group in groups}):
        yield f"preference group {name!r} is gone: all its rows were rejected"
    texts = Counter((record.preference_group, text_key(record)) for record in source.train)
    if copies := sum(count - 1 for count in texts.values()):
        yield f"{copies} prompts repeat the text of another one of their preference group; each still counts"
