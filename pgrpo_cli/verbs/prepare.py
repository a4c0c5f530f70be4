"""`pgrpo prepare`: from the recipe's source to prompts with preference groups, split, counted and checked."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgrpo_cli.data import prepared
from pgrpo_cli.data.advice import Facts, warnings_about
from pgrpo_cli.data.assemble import Assembled, assemble
from pgrpo_cli.data.conditioning.told_apart import ToldApart, require_told_apart, told_apart
from pgrpo_cli.data.losses import require_few_broken, require_few_lost
from pgrpo_cli.data.preference_groups import ASSIGNERS, AssignContext
from pgrpo_cli.data.prompts import PromptRenderer
from pgrpo_cli.data.records import RejectedRow, SourceData
from pgrpo_cli.data.references import ReferenceRewards, reference_rewards, require_scorable
from pgrpo_cli.data.sources import SOURCES
from pgrpo_cli.data.sources.context import ReadContext
from pgrpo_cli.data.summary import Bar, GroupCounts, count_groups, count_reasons, length_bars
from pgrpo_cli.data.usable import require_prompts
from pgrpo_cli.errors import DataError, PgrpoError, RunError
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.state.run import RunDirectory, claim, locked

from .callbacks import Callbacks
from .source import RecipeOrRun, StrPath, resolve

# Called with (stage, done, total) as the work continues.
PrepareProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` found. `groups` has the largest first.

    `rejected` counts broken rows by reason, `left_out` those that limits and the set leave out. `notes` are
    the source's. `lengths` are bars over the tokens of all prompts, of which `max_prompt_tokens` is the
    limit. `clusters` is what the manifest says of them, `references` what rewards give to reference answers,
    `told_apart` whether the model can tell who asks.
    """

    data_dir: Path
    unchanged: bool
    groups: tuple[GroupCounts, ...]
    lengths: tuple[Bar, ...]
    max_prompt_tokens: int
    rejected: dict[str, int]
    left_out: dict[str, int]
    rejected_path: Path
    warnings: tuple[str, ...]
    data_hash: str
    notes: tuple[str, ...] = ()
    clusters: Mapping[str, Any] | None = None
    references: ReferenceRewards | None = None
    told_apart: ToldApart | None = None

    @property
    def train_prompts(self) -> int:
        return sum(group.train_prompts for group in self.groups)

    @property
    def eval_prompts(self) -> int:
        return sum(group.eval_prompts for group in self.groups)


def prepare(
    source: RecipeOrRun,
    *,
    run_dir: StrPath | None = None,
    overrides: Sequence[str] = (),
    allow_code: bool = False,
    force: bool = False,
    callbacks: Callbacks | None = None,
) -> PrepareReport:
    """Prepare the data of a recipe, or those of a run again, and report on them.

    `run_dir`: where the run lands, by default `runs/<recipe name>`. `overrides`: KEY=VALUE for keys of the
    recipe. `allow_code` permits code that the recipe names to run. `force` prepares data in which most
    prompts do not tell who asks. Raises what `prepare_data` raises.
    """
    callbacks = callbacks or Callbacks()
    run, recipe, recipe_dir = resolve(source, run_dir, overrides, callbacks.on_message)
    with locked(run, callbacks.on_message) as run:
        claim(run, recipe, recipe_dir)
        callbacks.on_run(run, recipe)
        report, _ = prepare_run(run, recipe, recipe_dir, allow_code=allow_code, force=force)
        callbacks.on_prepared(report)
    return report


def prepare_run(
    run: RunDirectory, recipe: Recipe, recipe_dir: Path, *, allow_code: bool, force: bool = False
) -> tuple[PrepareReport, Any]:
    """Prepare the data of a run that is claimed and locked; the report, and the tokenizer."""
    from pgrpo_cli.model.load.base_model import load_tokenizer, model_limits

    tokenizer = load_tokenizer(recipe.model, recipe_dir)
    limits = model_limits(recipe.model, recipe_dir)
    report = prepare_data(
        recipe, run.path, recipe_dir, tokenizer,
        context=limits.context, vocabulary=limits.vocabulary, allow_code=allow_code, force=force,
    )  # fmt: skip
    return report, tokenizer


def prepare_data(
    recipe: Recipe,
    run_dir: Path,
    recipe_dir: Path,
    tokenizer: Any,
    *,
    context: int | None = None,
    vocabulary: int | None = None,
    allow_code: bool = False,
    force: bool = False,
    progress: PrepareProgress | None = None,
) -> PrepareReport:
    """Write `run_dir/data` and report on it; the same input and seed give the same bytes.

    `recipe_dir` is where relative paths start, `context` the model's longest sequence in tokens, `vocabulary`
    how many tokens it has an embedding for; `allow_code` permits code that the recipe names to run. Raises
    RecipeError where it may not, DataError where the data cannot be used, ModelError where the model's chat
    template or tokenizer cannot, RunError where checkpoints of the run
    were trained on other data, PgrpoError where the disk refuses. data/ changes on success only.
    """
    report_progress = progress or (lambda stage, done, total: None)
    renderer = PromptRenderer(
        tokenizer,
        recipe.model.system_prompt,
        recipe.data.max_prompt_tokens,
        recipe.rollout.max_completion_tokens,
        context,
        recipe.model.chat_template_kwargs,
        vocabulary,
    )
    report_progress("read", 0, 1)
    section, seed = recipe.data.preference_groups, data_seed(recipe)
    source = SOURCES[recipe.data.source.type](
        recipe.data.source,
        ReadContext(recipe_dir, seed, section.type == "column", recipe.data.max_rejected_share),
    )
    with _rejected_kept(run_dir, source.rejected):
        require_few_broken(source, recipe.data)
    assigner = ASSIGNERS[section.type](
        section, AssignContext(recipe_dir, seed, recipe.data.source.type, source.profiles, allow_code)
    )
    assembled = assemble(
        source,
        assigner,
        renderer,
        recipe.data,
        seed,
        lambda done, total: report_progress("render", done, total),
    )
    with _rejected_kept(run_dir, assembled.rejected):
        require_few_lost(source, assembled, recipe.data)
        assembled = require_prompts(source, assembled, every_group=section.type == "column")
    require_scorable(assembled.prompts, assembled.records, recipe.rewards)
    groups = count_groups(assembled.prompts, assembled.records)
    all_prompts = [prompt for half in assembled.prompts.values() for prompt in half]
    references = reference_rewards(all_prompts, recipe.rewards, recipe_dir)
    told = told_apart(assembled.prompts, recipe.rewards, seed)
    require_told_apart(told, force=force)
    description = _description(recipe, renderer, source, assembled, groups, told)
    report_progress("write", 0, 1)
    unchanged, manifest = _store(run_dir, assembled, description)
    report_progress("write", 1, 1)
    return PrepareReport(
        run_dir / "data",
        unchanged,
        groups,
        length_bars([len(prompt.input_ids) for prompt in all_prompts]),
        recipe.data.max_prompt_tokens,
        description["rejected"],
        description["left_out"],
        run_dir / "data" / prepared.REJECTED,
        (*told.warnings, *warnings_about(Facts(recipe, assembled, groups, references))),
        manifest["data_hash"],
        (*source.notes, *assembled.notes, *renderer.notes(all_prompts)),
        assembled.fitted.findings,
        references,
        told,
    )


def data_seed(recipe: Recipe) -> int:
    """The seed of everything about the data."""
    return recipe.seed if recipe.data.seed is None else recipe.data.seed


@contextmanager
def _rejected_kept(run_dir: Path, rejected: Sequence[RejectedRow]) -> Iterator[None]:
    """Where the data cannot be used, the rejected rows are kept beside data/, and the error says where."""
    try:
        yield
    except DataError as error:
        if not rejected:
            raise
        with _written(run_dir):
            path = prepared.write_rejected(run_dir, rejected)
        raise DataError(error.message, remedy=f"{error.remedy}\nAll rejected rows: {path}") from error


def _description(
    recipe: Recipe,
    renderer: PromptRenderer,
    source: SourceData,
    assembled: Assembled,
    groups: Sequence[GroupCounts],
    told: ToldApart,
) -> dict[str, Any]:
    """What the manifest says besides the hashes of the files."""
    return {
        "seed": data_seed(recipe),
        "model": {
            "id": recipe.model.id,
            "chat_template_sha256": renderer.template_sha256,
            "chat_template": recipe.model.chat_template,
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
        "conditioning": told.as_json(),
        "rejected": count_reasons(row for row in assembled.rejected if not row.left_out),
        "left_out": count_reasons(row for row in assembled.rejected if row.left_out),
        **({"clusters": dict(findings)} if (findings := assembled.fitted.findings) else {}),
        **({"profiles": dict(profiles)} if (profiles := assembled.profiles) else {}),
    }


def _store(
    run_dir: Path,
    assembled: Assembled,
    description: dict[str, Any],
) -> tuple[bool, dict[str, Any]]:
    """(whether data/ was the same already, the manifest)."""
    with _written(run_dir):
        existing = _existing_manifest(run_dir)
        manifest = prepared.write_prepared(
            run_dir, assembled.prompts, assembled.rejected, description, assembled.fitted.stored
        )
        if existing is not None and existing["data_hash"] != manifest["data_hash"]:
            _refuse_if_trained_on(run_dir, existing, manifest)
        if existing == manifest and _intact(run_dir, manifest):
            prepared.discard(run_dir)
            return True, manifest
        prepared.publish(run_dir)
    return False, manifest


@contextmanager
def _written(run_dir: Path) -> Iterator[None]:
    """Turns what the disk refuses into a PgrpoError."""
    try:
        yield
    except OSError as error:
        shutil.rmtree(run_dir / prepared.NEXT, ignore_errors=True)
        raise PgrpoError(
            f"the prepared data cannot be written to {run_dir}: {error.strerror or error}",
            remedy="Make room or choose another --run-dir; what was prepared before is untouched.",
        ) from error


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
    kept = "checkpoints" if any((run_dir / "checkpoints").glob("step-*")) else "an adapter"
    if kept == "an adapter" and not (run_dir / "adapter" / "adapter_config.json").exists():
        return
    prepared.discard(run_dir)
    keys = ("seed", "model", "data", "sources", "preference_groups", "rejected", "left_out", "files")
    differing = [key for key in keys if existing.get(key) != manifest[key]]
    raise RunError(
        f"{run_dir} has {kept} trained on other data: {', '.join(differing)} would differ",
        remedy="Prepare into another directory (--run-dir), or put data and recipe back as they were.",
    )
