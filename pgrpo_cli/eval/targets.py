"""What of a run is evaluated: one of its adapters, and all that the evaluation will depend on."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pgrpo_cli.data.prepared import read_manifest
from pgrpo_cli.errors import CheckpointError, DataError, EvalError, ModelError, PgrpoError, RunError
from pgrpo_cli.paths import path_of, sha256
from pgrpo_cli.recipe.evaluation import EvalSection
from pgrpo_cli.recipe.load import differing_keys, recipe_hash
from pgrpo_cli.recipe.model import ModelSection
from pgrpo_cli.recipe.rewards import pretrained_in
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.recipe.training import RolloutSection
from pgrpo_cli.state.adapter import finished_adapter, finished_step
from pgrpo_cli.state.best import BY_KEEP_BEST, Best
from pgrpo_cli.state.checkpoint import Checkpoint, checkpoint_at, latest_checkpoint
from pgrpo_cli.state.checksums import sha256_of_code
from pgrpo_cli.state.fingerprint import base_model_parts, hashes_of_model, read_fingerprint, versions
from pgrpo_cli.state.paths import as_begun
from pgrpo_cli.state.results import read_result, result_path
from pgrpo_cli.state.run import RunDirectory
from pgrpo_cli.stats.result_types import EvalResult, Header
from pgrpo_cli.stats.task_scores import at_confidence

# What sampled and scored completions depend on, besides the adapter.
_SETTINGS = ("data_hash", "model", "rewards", "sampling", "max_prompts_per_group", "seed")
# Keys of `eval` that change what is made of the completions.
_SUMMARY_KEYS = ("minority_share", "matrix")
# Sections that a run may be evaluated with whatever it was trained with.
_FREE = ("eval.", "log.")


@dataclass(frozen=True)
class EvalTarget:
    """An adapter of a run, `step` steps old, and what the user should know about it and its base model.

    `chosen`: the step was named, and is not simply the newest. `source`: a run that trains does not drop it
    meanwhile. Only `header` and `group_sizes` read the run's prepared data.
    """

    run: RunDirectory
    recipe: Recipe
    recipe_dir: Path
    adapter: Path
    step: int
    warnings: tuple[str, ...]
    chosen: bool = False
    source: Checkpoint | None = None

    @property
    def path(self) -> Path:
        """Where the evaluation is kept."""
        return result_path(self.run, self.step)

    @property
    def page(self) -> Path:
        """Where its page is: the run's report is about its newest adapter."""
        return self.path.with_suffix(".html") if self.chosen else self.run.report_path

    @cached_property
    def adapter_hash(self) -> str:
        """Of its weights. Raises CheckpointError where they cannot be read."""
        return _adapter_hash(self.adapter)

    @cached_property
    def header(self) -> Header:
        """The header that its evaluation will have. Raises DataError without prepared data."""
        return header_of(
            self.recipe,
            self.recipe_dir,
            run=self.run.path,
            step=self.step,
            data_hash=self._manifest["data_hash"],
            adapter_hash=self.adapter_hash,
        )

    @property
    def group_sizes(self) -> dict[str, int]:
        """Training prompts of each preference group, the weights of the weighted mean."""
        return {group: counts["train"] for group, counts in self._manifest["preference_groups"].items()}

    @property
    def notes(self) -> list[str]:
        """What a reader of its evaluation needs to know besides the numbers."""
        best = Best.of(self.run, self.recipe.train) if self.adapter == self.run.adapter else None
        return [] if best is None else best.notes(self.step)

    @cached_property
    def _manifest(self) -> dict[str, Any]:
        manifest = read_manifest(self.run.path)
        if manifest is None:
            raise DataError(
                f"{self.run.path} has no prepared data", remedy="Run `pgrpo prepare` with its recipe first."
            )
        return manifest


def eval_target(
    run: RunDirectory, recipe: Recipe, recipe_dir: Path, checkpoint: int | None = None
) -> EvalTarget:
    """Find what to evaluate: the checkpoint after that step, else the finished adapter, else the newest one.

    `recipe` is the run's own but for `eval` and `log`; `recipe_dir` is where its relative paths start. Raises
    RunError or CheckpointError where something is missing.
    """
    _refuse_other_recipe(run, recipe)
    recipe = as_begun(run, recipe)
    changed = _changed_since_training(run, base_model_files(recipe.model, recipe_dir))
    if checkpoint is None or (run.finished and checkpoint == finished_step(run, recipe.train)):
        chosen, (found, warnings) = False, _newest(run, recipe)
    else:
        chosen, found, warnings = True, checkpoint_at(run, checkpoint), []
    return EvalTarget(run, recipe, recipe_dir, found.path, found.step, (*warnings, *changed), chosen, found)


def header_of(
    recipe: Recipe, recipe_dir: Path, *, run: Path, step: int, data_hash: str, adapter_hash: str
) -> Header:
    """What the evaluation of an adapter, `step` steps old, depends on."""
    return Header(
        run=run.resolve().name,
        step=step,
        recipe=recipe.model_dump(mode="json", exclude={"model": {"device"}}),
        recipe_hash=recipe_hash(recipe),
        data_hash=data_hash,
        adapter_hash=adapter_hash,
        # Precision changes how exactly the same model is computed, not which model it is.
        model=recipe.model.model_dump(
            mode="json", exclude={"quantization", "compute_dtype", "attention", "device"}
        ),
        model_files=base_model_files(recipe.model, recipe_dir),
        rewards=[_described(section, recipe_dir) for section in recipe.rewards],
        sampling=sampling_of(recipe.eval, recipe.rollout),
        max_prompts_per_group=recipe.eval.max_prompts_per_group,
        seed=recipe.seed,
        bootstrap_samples=recipe.eval.bootstrap_samples,
        confidence=recipe.eval.confidence,
        versions=versions(),
    )


def sampling_of(evaluation: EvalSection, rollout: RolloutSection) -> dict[str, Any]:
    """How an evaluation samples."""
    return {
        "num_completions": evaluation.num_completions,
        "max_completion_tokens": rollout.max_completion_tokens,
        "temperature": evaluation.temperature,
        "top_p": rollout.top_p,
        "top_k": rollout.top_k,
    }


def kept_result(target: EvalTarget, *, any_settings: bool = False) -> EvalResult | None:
    """The evaluation in the run, if it is of this adapter with these settings (or any).

    Raises EvalError where it is damaged, DataError without prepared data unless any settings do.
    """
    # Without prepared data there is nothing to evaluate: that comes first.
    header = None if any_settings else target.header
    if not target.path.exists():
        return None
    # The run may have been renamed, or copied, since.
    kept = read_result(target.path).model_copy(update={"run": target.run.path.resolve().name})
    kept = with_notes(kept, target)
    if header is None:
        return kept if kept.adapter_hash == target.adapter_hash else None
    ours, theirs = (found.recipe.get("eval", {}) for found in (header, kept))
    same = all(ours.get(key) == theirs.get(key) for key in _SUMMARY_KEYS)
    settings = (*_SETTINGS, "adapter_hash", "bootstrap_samples", "confidence")
    return kept if same and _equal(kept, header, settings) and not other_files(kept, header) else None


def with_notes(result: EvalResult, target: EvalTarget) -> EvalResult:
    """The evaluation with the target's notes of today: more evaluations may have chosen its adapter since."""
    own = [note for note in result.notes if BY_KEEP_BEST not in note]
    return result.model_copy(update={"notes": own + target.notes})


def kept_with_tasks(target: EvalTarget) -> EvalResult | None:
    """The evaluation of this adapter in the run, made with whatever settings, if its scores of lm-eval hold
    for another one: they depend on the model alone. Their intervals have the coverage of the target's.
    """
    try:
        kept = kept_result(target, any_settings=True)
    except EvalError:
        return None
    header = target.header
    if kept is None or kept.lm_eval is None or kept.recipe.get("model") != header.recipe["model"]:
        return None
    if other_files(kept, header):
        return None
    scores = at_confidence(kept.lm_eval.scores, kept.confidence, header.confidence)
    return kept.model_copy(update={"lm_eval": kept.lm_eval.model_copy(update={"scores": scores})})


def has_judged(section: EvalSection, kept: EvalResult | None) -> bool:
    """Whether the judge of the recipe, if there is one, has compared the completions of `kept`."""
    judge = section.judge
    if judge is None:
        return True
    return bool(kept and kept.judged and kept.judged.judge == judge.model_dump(mode="json"))


def has_tasks(section: EvalSection, kept: EvalResult | None) -> bool:
    """Whether `kept` has scores of the tasks of the recipe, if there are any."""
    tasks = section.lm_eval
    if tasks is None:
        return True
    return bool(kept and kept.lm_eval and kept.lm_eval.settings == tasks.model_dump(mode="json"))


def shares_base(header: Header, other: Header) -> bool:
    """Whether the base model's completions are the same in evaluations with these headers."""
    precision = header.recipe["model"] == other.recipe.get("model")
    # The same name may stand for another model in another folder.
    known = header.model_files is not None
    return precision and known and _equal(header, other, (*_SETTINGS, "model_files", "versions"))


def other_files(one: Header, other: Header) -> bool:
    """Whether the base models of two evaluations are known to be different ones."""
    return None not in (one.model_files, other.model_files) and one.model_files != other.model_files


def base_model_files(model: ModelSection, recipe_dir: Path) -> dict[str, str] | None:
    """Hashes of the base model's files; None where it is not here, which a kept evaluation does not need."""
    try:
        found = base_model_parts(model, recipe_dir)
    except (PgrpoError, OSError):
        return None
    return found if found or model.id == "random" else None


def _changed_since_training(run: RunDirectory, files: Mapping[str, str] | None) -> list[str]:
    """A warning if the base model is another one than that of the run's last training, as far as is known."""
    try:
        kept = read_fingerprint(run)
    except RunError as error:
        return [error.message]
    if kept is None or files is None:
        return []
    changed = [name for name, now in files.items() if kept.parts.get(name, now) != now]
    if not changed:
        return []
    return [
        f"{' and '.join(changed)} is not what it was when {run.path} was last trained: the adapter is used "
        "with a model that it was not made for"
    ]


def _refuse_other_recipe(run: RunDirectory, recipe: Recipe) -> None:
    # A recipe that says what the run took `auto` as is the run's own: `compare` evaluates with such a one.
    ours, theirs = as_begun(run, run.recipe()), as_begun(run, recipe)
    differing = [(key, a, b) for key, a, b in differing_keys(ours, theirs) if not key.startswith(_FREE)]
    if differing:
        lines = "\n".join(f"  {key}: {a!r} in the run, {b!r} in the recipe" for key, a, b in differing)
        raise RunError(
            f"{run.path} was made by a different recipe; these keys differ:\n{lines}",
            remedy=f"Only `eval` may differ. `pgrpo eval {shlex.quote(str(run.path))}` takes the run's "
            "own recipe.",
        )


def _newest(run: RunDirectory, recipe: Recipe) -> tuple[Checkpoint, list[str]]:
    """The finished adapter, as a checkpoint, or else the newest one."""
    if run.finished:
        return Checkpoint(run.adapter, finished_step(run, recipe.train)), finished_adapter(run)
    checkpoint, warnings = latest_checkpoint(run, held=True)
    if checkpoint is None:
        raise RunError(f"{run.path} has nothing trained yet", remedy="Train it first with `pgrpo train`.")
    unfinished = f"{run.path} is not finished: step {checkpoint.step} of {recipe.train.steps} is evaluated"
    return checkpoint, [*warnings, unfinished]


def _adapter_hash(adapter: Path) -> str:
    try:
        return sha256(adapter / "adapter_model.safetensors")
    except OSError as error:
        raise CheckpointError(
            f"{adapter} holds no readable adapter: {error.strerror}",
            remedy="Move that folder away and run `pgrpo train` again; it resumes from the last checkpoint.",
        ) from error


def _described(section: Any, recipe_dir: Path) -> dict[str, Any]:
    """A reward's section; also the hash of the file that it reads, of what a Python file imports from its
    folder, and of its model. Of a model that is not here, as of a file, there is none.
    """
    described: dict[str, Any] = section.model_dump(mode="json")
    if section.type == "python":
        file = path_of(section.file, f"reward {section.label!r}: file", recipe_dir)
        if file.is_file():
            described["sha256"] = sha256_of_code(file)
    if section.type == "taste":
        picks = path_of(section.path, f"reward {section.label!r}: path", recipe_dir)
        if picks.is_file():
            described["sha256"] = sha256(picks)
    if pretrained := pretrained_in(section):
        from pgrpo_cli.rewards.pretrained import location_of

        with suppress(ModelError):
            described |= hashes_of_model("model_files", location_of(pretrained, recipe_dir, section.label))
    return described


def _equal(one: Header, other: Header, fields: Iterable[str]) -> bool:
    return all(getattr(one, field) == getattr(other, field) for field in fields)
