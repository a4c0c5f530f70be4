"""Sampling and scoring held-out prompts, for `pgrpo eval` and for the curve that a training run records."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pgrpo_cli.data.prepared import load_prepared
from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.model.oom import TokenBudget
from pgrpo_cli.model.policy import Policy
from pgrpo_cli.model.rollout.sample import sample
from pgrpo_cli.model.rollout.sampling import SamplingSettings
from pgrpo_cli.model.rollouts import Rollouts
from pgrpo_cli.model.update.divergence import completion_kl
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.rewards.scoring import PendingScores, Scorer
from pgrpo_cli.seeding import derive_seed
from pgrpo_cli.state.curve import append_record, curve_record, rewind_curve
from pgrpo_cli.state.run import RunDirectory
from pgrpo_cli.stats.result_types import EvalRow, Which

from .targets import sampling_of

EvalProgress = Callable[[str, int, int], None]
"""Called with what is at work, how much it has done, and how much there is.

`base` and `tuned` are models that count prompts; `base tasks` and `tuned tasks` count requests of lm-eval,
`judge` counts pairs of completions.
"""

_PROMPTS_AT_ONCE = 16

T = TypeVar("T")


def held_out(prompts: Sequence[PreparedPrompt], most: int | None) -> list[PreparedPrompt]:
    """The first `most` prompts of each preference group, in order; None: all."""
    taken: dict[str, int] = {}
    chosen = []
    for prompt in prompts:
        taken[prompt.preference_group] = taken.get(prompt.preference_group, 0) + 1
        if most is None or taken[prompt.preference_group] <= most:
            chosen.append(prompt)
    return chosen


def eval_sampling(sampling: Mapping[str, Any]) -> SamplingSettings:
    """How an evaluation samples: the `sampling` of its header."""
    drawing = {key: value for key, value in sampling.items() if key != "num_completions"}
    return SamplingSettings(num_generations=sampling["num_completions"], **drawing)


@dataclass(frozen=True)
class HeldOutCurve:
    """Evaluates a model in training every so many steps, as `pgrpo eval` would evaluate that checkpoint.

    `prompts`: those that `eval` takes. Nothing that training draws depends on it: completions come from
    uniform numbers of their own, a function of seed and prompt, so every step answers with the same ones.
    """

    run: RunDirectory
    prompts: Sequence[PreparedPrompt]
    every: int
    last_step: int
    settings: SamplingSettings
    seed: int

    def due(self, step: int) -> bool:
        """Whether there is something to evaluate after `step`; 0 is before the first."""
        return bool(self.prompts) and (step % self.every == 0 or step == self.last_step)

    def rewind(self, step: int) -> list[int]:
        """Put the curve back to `step`; returns the steps up to it whose lines are due and not there. Where a
        run is extended, the evaluation of its former last step may not be due any more: it is dropped.
        """
        there = rewind_curve(self.run, step, self.due)
        return [due for due in range(step + 1) if self.due(due) and due not in there]

    def record(self, step: int, policy: Policy, scorer: Scorer, budget: TokenBudget) -> None:
        """Sample, score and write the line of a step. Raises as `scored_completions`, and CheckpointError."""
        rows = scored_completions(policy, "tuned", self.prompts, scorer, self.settings, budget, self.seed)
        append_record(self.run, curve_record(step, rows))


def held_out_curve(run: RunDirectory, recipe: Recipe) -> HeldOutCurve | None:
    """The curve of a run whose recipe asks for one. Raises DataError where the data are missing."""
    if recipe.eval.every is None:
        return None
    prompts = held_out(load_prepared(run.path, "eval"), recipe.eval.max_prompts_per_group)
    settings = eval_sampling(sampling_of(recipe.eval, recipe.rollout))
    return HeldOutCurve(run, prompts, recipe.eval.every, recipe.train.steps, settings, recipe.seed)


def scored_completions(
    policy: Policy,
    which: Which,
    prompts: Sequence[PreparedPrompt],
    scorer: Scorer,
    settings: SamplingSettings,
    budget: TokenBudget,
    seed: int,
    *,
    divergence: TokenBudget | None = None,
    progress: EvalProgress = lambda which, done, total: None,
) -> list[EvalRow]:
    """One row per completion, in the order of the prompts; the policy's adapter may be on or off.

    `divergence`: tokens of one pass that compares the policy with the base model; None: the rows have no KL.
    A row depends on weights, prompt and seed, on nothing that was drawn before.
    """
    rows: list[EvalRow] = []
    portions = _portions(policy, which, prompts, scorer, settings, budget, seed, progress)
    # Asynchronous rewards have until the next portion is sampled before anything waits for them.
    for rollouts, pending in _one_behind(portions):
        kl_N = [math.nan] * len(rollouts.texts_N)
        if divergence is not None:
            kl_N = completion_kl(policy, rollouts, temperature=settings.temperature, budget=divergence)
        rows += _rows(which, rollouts, pending, kl_N)
    progress(which, len(prompts), len(prompts))
    return rows


def _rows(which: Which, rollouts: Rollouts, pending: PendingScores, kl_N: Sequence[float]) -> list[EvalRow]:
    scores_N, G = pending.scores(rollouts.completions()), rollouts.num_generations
    finished_N = rollouts.finished_N.tolist()
    return [
        EvalRow(
            prompt_id=rollouts.prompts[n // G].prompt_id,
            preference_group=rollouts.prompts[n // G].preference_group,
            which=which,
            completion_index=n % G,
            reward=scores_N[n].value,
            parts=dict(scores_N[n].parts),
            kl=kl_N[n],
            length=length,
            finished=finished_N[n],
            text=rollouts.texts_N[n],
        )
        for n, length in enumerate(rollouts.lengths_N)
    ]


def _portions(
    policy: Policy,
    which: Which,
    prompts: Sequence[PreparedPrompt],
    scorer: Scorer,
    settings: SamplingSettings,
    budget: TokenBudget,
    seed: int,
    progress: EvalProgress,
) -> Iterator[tuple[Rollouts, PendingScores]]:
    """Rollouts of a few prompts at a time, to show progress; completions do not depend on their portion."""
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
