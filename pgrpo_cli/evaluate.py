"""`pgrpo eval`: the base model and the tuned one on the same held-out prompts, scored by the same rewards."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from pgrpo_cli.algo.intervals import Bootstrap
from pgrpo_cli.data.prepared import load_prepared
from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.errors import EvalError
from pgrpo_cli.model.batching import rollout_budget
from pgrpo_cli.model.load import load_policy, pick_device
from pgrpo_cli.model.oom import TokenBudget
from pgrpo_cli.model.policy import Policy
from pgrpo_cli.model.rollout import Rollouts, sample
from pgrpo_cli.model.sampling import SamplingSettings
from pgrpo_cli.report.summary import summarise
from pgrpo_cli.report.types import EvalResult, Header, Row, Which
from pgrpo_cli.rewards.build import build_rewards
from pgrpo_cli.rewards.reward_sum import RewardSum
from pgrpo_cli.rewards.scoring import PendingScores, Scorer
from pgrpo_cli.rewards.usage import usage_sentences
from pgrpo_cli.seeding import derive_seed
from pgrpo_cli.state.paths import read_paths
from pgrpo_cli.state.results import write_result
from pgrpo_cli.state.subject import Subject, shares_base

Progress = Callable[[Which, int, int], None]
"""Called with the model at work, the prompts done, and the number of prompts."""

_PROMPTS_AT_ONCE = 16

T = TypeVar("T")


def evaluate(
    policy: Policy,
    prompts: Sequence[PreparedPrompt],
    rewards: RewardSum,
    header: Header,
    *,
    weights: Mapping[str, float] | None = None,
    base_rows: Sequence[Row] | None = None,
    progress: Progress | None = None,
    on_note: Callable[[str], None] = lambda text: None,
) -> EvalResult:
    """Sample, score and sum up: adapter off (base) and on (tuned), the same prompts and the same seeds.

    `header` says how to sample, and goes on record. `weights`: how often each preference group occurs, for
    the weighted mean. `base_rows`: the base model's rows of an evaluation with the same settings, instead of
    sampling them again. `on_note` takes sentences for the user. Raises EvalError without prompts, RewardError
    where a reward fails, TrainingError where the device's memory holds no completion.
    """
    if not prompts:
        raise EvalError(
            "there are no held-out prompts", remedy="Give the data source some and prepare again."
        )
    G = header.sampling["num_completions"]
    drawing = {key: value for key, value in header.sampling.items() if key != "num_completions"}
    settings = SamplingSettings(num_generations=G, **drawing)
    budget = rollout_budget(settings, lambda text: on_note(f"warning: {text}"))
    told = progress or (lambda which, done, total: None)

    def scored(which: Which) -> list[Row]:
        return _scored_rows(policy, which, prompts, scorer, settings, budget, header.seed, told)

    with Scorer(rewards) as scorer:
        if base_rows is None:
            with policy.base():
                base_rows = scored("base")
        rows = [*base_rows, *scored("tuned")]
    bootstrap = Bootstrap(header.bootstrap_samples, header.confidence, header.seed)
    return EvalResult(
        **dict(header),
        **dict(summarise(rows, bootstrap, weights)),
        prompts={prompt.prompt_id: prompt.prompt for prompt in prompts},
        rows=rows,
    )


def evaluate_run(
    subject: Subject,
    *,
    allow_code: bool = False,
    allowed_hosts: Collection[str] = (),
    others: Iterable[EvalResult] = (),
    progress: Progress | None = None,
    on_note: Callable[[str], None] = lambda text: None,
) -> EvalResult:
    """Evaluate the subject and keep the result in its run.

    The base model's completions come from the first of `others` that was made with the same settings, if any.
    `allow_code` permits Python files named in the recipe to run, `allowed_hosts` are those that rewards may
    send completions to; `on_note` takes sentences for the user.
    """
    rewards = build_rewards(
        subject.recipe.rewards,
        subject.recipe_dir,
        allow_code,
        run_dir=subject.run.path,
        allowed_hosts=allowed_hosts,
    )
    prompts = held_out(load_prepared(subject.run.path, "eval"), subject.header.max_prompts_per_group)
    device = pick_device()
    policy = load_policy(
        subject.recipe,
        recipe_dir=subject.recipe_dir,
        device=device,
        adapter=subject.adapter,
        paths=read_paths(subject.run, device),
    )
    shared = next((other for other in others if shares_base(subject.header, other)), None)
    result = evaluate(
        policy,
        prompts,
        rewards,
        subject.header,
        weights=subject.group_sizes,
        base_rows=None if shared is None else [row for row in shared.rows if row.which == "base"],
        progress=progress,
        on_note=on_note,
    )
    write_result(result, subject.path)
    for sentence in usage_sentences(rewards.usage()):
        on_note(sentence)
    return result


def held_out(prompts: Sequence[PreparedPrompt], most: int | None) -> list[PreparedPrompt]:
    """The first `most` prompts of each preference group, in order; None: all."""
    taken: dict[str, int] = {}
    chosen = []
    for prompt in prompts:
        taken[prompt.preference_group] = taken.get(prompt.preference_group, 0) + 1
        if most is None or taken[prompt.preference_group] <= most:
            chosen.append(prompt)
    return chosen


def _scored_rows(
    policy: Policy,
    which: Which,
    prompts: Sequence[PreparedPrompt],
    scorer: Scorer,
    settings: SamplingSettings,
    budget: TokenBudget,
    seed: int,
    progress: Progress,
) -> list[Row]:
    """A row a completion, in the order of the prompts."""
    rows: list[Row] = []
    portions = _portions(policy, which, prompts, scorer, settings, budget, seed, progress)
    # Asynchronous rewards have until the next portion is sampled before anything waits for them.
    for rollouts, pending in _one_behind(portions):
        scores_N, G = pending.scores(rollouts.completions()), rollouts.num_generations
        rows += [
            Row(
                prompt_id=rollouts.prompts[n // G].prompt_id,
                preference_group=rollouts.prompts[n // G].preference_group,
                which=which,
                completion_index=n % G,
                reward=score.value,
                parts=dict(score.parts),
                length=length,
                finished=finished,
                text=text,
            )
            for n, (score, length, finished, text) in enumerate(
                zip(scores_N, rollouts.lengths_N, rollouts.finished_N.tolist(), rollouts.texts_N, strict=True)
            )
        ]
    progress(which, len(prompts), len(prompts))
    return rows


def _portions(
    policy: Policy,
    which: Which,
    prompts: Sequence[PreparedPrompt],
    scorer: Scorer,
    settings: SamplingSettings,
    budget: TokenBudget,
    seed: int,
    progress: Progress,
) -> Iterator[tuple[Rollouts, PendingScores]]:
    """Sampled in portions, so that progress is seen: a completion does not depend on its portion."""
    seed = derive_seed(seed, "eval")
    for start in range(0, len(prompts), _PROMPTS_AT_ONCE):
        progress(which, start, len(prompts))
        pending = scorer.start()
        portion = prompts[start : start + _PROMPTS_AT_ONCE]
        rollouts = sample(policy, portion, settings, seed=seed, budget=budget, on_batch=pending.add)
        yield rollouts, pending


def _one_behind(items: Iterable[T]) -> Iterator[T]:
    """The same items, each only when the next one has been made, or when there is none."""
    waiting: list[T] = []
    for item in items:
        yield from waiting
        waiting = [item]
    yield from waiting
