"""Alignment: the base model and the tuned one on the same held-out prompts, scored by the same rewards."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import torch

from pgrpo_cli.data.prepared import load_prepared
from pgrpo_cli.data.records import PreparedPrompt, completion_of
from pgrpo_cli.errors import CheckpointError, EvalError, RewardError
from pgrpo_cli.model.load.from_recipe import load_policy
from pgrpo_cli.model.load.precision import device_for
from pgrpo_cli.model.policy import Paths, Policy
from pgrpo_cli.model.rollout.batching import rollout_budget
from pgrpo_cli.model.update.divergence import divergence_budget, neutral_text, perplexity
from pgrpo_cli.pretrained.device import describe
from pgrpo_cli.rewards.build import build_rewards
from pgrpo_cli.rewards.reward_sum import RewardSum, sentences_about
from pgrpo_cli.rewards.scoring import Scorer
from pgrpo_cli.state.paths import read_paths
from pgrpo_cli.state.results import require_writable, write_result
from pgrpo_cli.stats.completions import kept_of
from pgrpo_cli.stats.estimates import Resampler
from pgrpo_cli.stats.evaluation import summarise
from pgrpo_cli.stats.intervals import Bootstrap
from pgrpo_cli.stats.result_types import EvalResult, EvalRow, Header, TaskScores, Which

from .matrix import evaluate_matrix, group_rewards
from .sampling import EvalProgress, eval_sampling, held_out, scored_completions
from .targets import EvalTarget, shares_base, with_notes

_TOKENS_PER_PASS = 4096


def evaluate_policy(
    policy: Policy,
    prompts: Sequence[PreparedPrompt],
    rewards: RewardSum,
    header: Header,
    *,
    weights: Mapping[str, float] | None = None,
    base_rows: Sequence[EvalRow] | None = None,
    by_group: RewardSum | None = None,
    progress: EvalProgress | None = None,
    on_note: Callable[[str], None] = lambda text: None,
) -> EvalResult:
    """Sample, score and sum up: adapter off (base) and on (tuned), the same prompts and the same seeds.

    `header` says how to sample, and is recorded. `weights`: how often each preference group occurs, for
    the weighted mean. `base_rows`: the base model's rows of an evaluation with the same settings, instead of
    sampling them again; they are scored by the rewards as they are now. `by_group`: the rewards of the
    matrix, None for no matrix. `on_note` takes sentences for the user. Raises EvalError without prompts,
    RewardError where a reward fails, TrainingError where the device's memory holds no completion.
    """
    if not prompts:
        raise EvalError(
            "there are no held-out prompts", remedy="Give the data source some and prepare again."
        )
    settings = eval_sampling(header.sampling)
    budget = rollout_budget(settings, lambda text: on_note(f"warning: {text}"))
    tokens = header.recipe["train"]["tokens_per_micro_batch"]
    passes = divergence_budget(_TOKENS_PER_PASS if tokens == "auto" else tokens)
    perplexities: dict[Which, float] = {}

    def scored(which: Which) -> list[EvalRow]:
        return scored_completions(
            policy,
            which,
            prompts,
            scorer,
            settings,
            budget,
            header.seed,
            divergence=passes if which == "tuned" else None,
            progress=progress or (lambda which, done, total: None),
        )

    users = {prompt.prompt_id: prompt.user_id for prompt in prompts if prompt.user_id is not None}
    bootstrap = Bootstrap(header.bootstrap_samples, header.confidence, header.seed)
    resampler = Resampler(bootstrap, users)
    section = header.recipe["eval"]
    matrix = None
    with Scorer(rewards) as scorer:
        with policy.base():
            perplexities["base"] = perplexity(policy, neutral_text())
            base_rows = scored("base") if base_rows is None else _scored_again(base_rows, prompts, scorer)
        perplexities["tuned"] = perplexity(policy, neutral_text())
        rows = [*base_rows, *scored("tuned")]
        if by_group is not None:
            limited = section["matrix"] == "auto"
            try:
                matrix = evaluate_matrix(by_group, prompts, rows, resampler, scorer=scorer, limited=limited)
            except RewardError as error:
                # Such as a reward of one preference group that reads a column which others do not have.
                on_note(f"note: there is no personalization matrix: {error.message}")
    return EvalResult(
        **dict(header),
        **dict(summarise(rows, bootstrap, weights, users=users, minority_share=section["minority_share"])),
        kept=kept_of(rows, perplexities, resampler),
        matrix=matrix,
        prompts={prompt.prompt_id: prompt.prompt for prompt in prompts},
        users=users,
        rows=rows,
    )


def _scored_again(
    rows: Sequence[EvalRow], prompts: Sequence[PreparedPrompt], scorer: Scorer
) -> Sequence[EvalRow]:
    """The same completions with their rewards of today: a recipe's section does not say all of a reward.

    What asks others, such as a judge, is not asked again: its answers cost, and are kept as they were.
    """
    if scorer.asks_others:
        return rows
    asked = {prompt.prompt_id: prompt for prompt in prompts}
    scores = scorer.start().scores([completion_of(asked[row.prompt_id], row.text) for row in rows])
    return [
        row.model_copy(update={"reward": score.value, "parts": dict(score.parts)})
        for row, score in zip(rows, scores, strict=True)
    ]


def policy_of(target: EvalTarget, device: torch.device | None = None) -> Policy:
    """The base model of the target's run with the adapter that is evaluated.

    `device`: None for that of the recipe. Raises CheckpointError where the adapter has gone.
    """
    if not target.adapter.is_dir():
        raise CheckpointError(
            f"{target.adapter} is gone: the run went on meanwhile, and keeps newer ones only",
            remedy="Run the same command again: it evaluates the newest.",
        )
    device = device or device_for(target.recipe)
    return load_policy(
        target.recipe,
        recipe_dir=target.recipe_dir,
        device=device,
        adapter=target.adapter,
        paths=Paths.from_record(read_paths(target.run, device.type)),
    )


def evaluate_target(
    target: EvalTarget,
    *,
    policy: Callable[[], Policy] | None = None,
    allow_code: bool = False,
    allowed_hosts: Collection[str] = (),
    device: torch.device | None = None,
    others: Iterable[EvalResult] = (),
    lm_eval: TaskScores | None = None,
    progress: EvalProgress | None = None,
    on_note: Callable[[str], None] = lambda text: None,
) -> EvalResult:
    """Evaluate the target and keep the result in its run, with the scores `lm_eval` of an earlier one.

    The base model's completions come from the first of `others` that was made with the same settings, if any.
    `policy` gives the target's, if that is loaded for more than this; it is called after the rewards are
    built. `allow_code` permits Python files named in the recipe to run, `allowed_hosts` are those that
    rewards may send completions to. `device` is where models compute, None for that of the recipe; `on_note`
    takes sentences for the user.
    """
    require_writable(target.run)
    if device is None:
        device = device_for(target.recipe)
        on_note(describe(device))
    rewards = build_rewards(
        target.recipe.rewards,
        target.recipe_dir,
        allow_code,
        run_dir=target.run.path,
        allowed_hosts=allowed_hosts,
        device=device,
    )
    prompts = held_out(load_prepared(target.run.path, "eval"), target.header.max_prompts_per_group)
    groups = len({prompt.preference_group for prompt in prompts})
    shared = next((other for other in others if shares_base(target.header, other)), None)
    result = evaluate_policy(
        policy() if policy else policy_of(target, device),
        prompts,
        rewards,
        target.header,
        weights=target.group_sizes,
        base_rows=None if shared is None else [row for row in shared.rows if row.which == "base"],
        by_group=group_rewards(rewards, target.recipe.rewards, target.recipe.eval.matrix, groups),
        progress=progress,
        on_note=on_note,
    )
    result = with_notes(result, target).model_copy(update={"lm_eval": lm_eval})
    write_result(result, target.path)
    for sentence in sentences_about(rewards):
        on_note(sentence)
    return result
