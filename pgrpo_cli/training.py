"""The training loop: Personalized Group Relative Policy Optimization (arXiv 2603.10009), step by step.

A step samples G completions for each of P prompts, scores them, normalises each reward against the reward
history of its preference group, and makes one clipped policy-gradient update of the adapter (several, if the
recipe says so). Everything that a step draws is a function of (seed, step), so a run that continues from a
checkpoint repeats an uninterrupted one: on a CPU bit for bit, on a GPU as far as its kernels do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch.optim import Optimizer

from pgrpo_cli.algo.history import RewardHistory
from pgrpo_cli.algo.types import Advantages, GroupStats, UpdateResult
from pgrpo_cli.data.batches import Batches
from pgrpo_cli.data.history_labels import HistoryLabels
from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.errors import Interrupted, RewardError
from pgrpo_cli.eval.sampling import HeldOutCurve
from pgrpo_cli.histories import RewardHistories
from pgrpo_cli.model.load.adapter import adapter_state
from pgrpo_cli.model.policy import Policy
from pgrpo_cli.model.rollout.batching import rollout_budget
from pgrpo_cli.model.rollout.sample import sample
from pgrpo_cli.model.rollout.sampling import sampling_settings
from pgrpo_cli.model.rollouts import Rollouts
from pgrpo_cli.model.update.determinism import deterministic
from pgrpo_cli.model.update.optimizer import build_optimizer, optimizer_state, restore_optimizer
from pgrpo_cli.model.update.policy_update import policy_update, update_budget
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.rewards.base import Score
from pgrpo_cli.rewards.reward_sum import RewardSum
from pgrpo_cli.rewards.scoring import Scorer
from pgrpo_cli.seeding import derive_seed
from pgrpo_cli.state.adapter import Adapter, finish_adapter, model_card
from pgrpo_cli.state.best import Best
from pgrpo_cli.state.checkpoint import Checkpoint, Saver, TrainingState, checkpoint_steps
from pgrpo_cli.state.history_store import HistoryStore
from pgrpo_cli.state.records import ScoredStep, step_record
from pgrpo_cli.state.rewind import lost_evaluations, rewind
from pgrpo_cli.state.run import RunDirectory
from pgrpo_cli.state.runlog import RunLog, Tracker


class Observer(Protocol):
    """Callbacks of the training loop."""

    def on_phase(self, step: int, phase: str) -> None:
        """A step enters `rollout`, `reward`, `training` or `save`."""

    def on_step(self, record: Mapping[str, Any], groups: Mapping[str, GroupStats]) -> None:
        """A step is done; `record` is its line of metrics.jsonl, `groups` what is known of its groups now."""

    def on_message(self, text: str) -> None:
        """Something that the user should know."""


@dataclass
class Clock:
    """The step at hand and the seconds spent in each of its phases, told to the observer as they begin."""

    observer: Observer
    step: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    _started: float = field(default_factory=time.perf_counter)
    _phase: str | None = None

    def begin(self, step: int) -> None:
        """A step begins."""
        self.step, self.seconds = step, {}

    def warn(self, text: str) -> None:
        """Tell the observer what happened in this step."""
        self.observer.on_message(f"warning: step {self.step}: {text}")

    def enter(self, phase: str | None) -> None:
        """End the current phase and begin the next one (None: no next one)."""
        now = time.perf_counter()
        if self._phase:
            self.seconds[self._phase] = self.seconds.get(self._phase, 0.0) + now - self._started
        self._phase, self._started = phase, now
        if phase:
            self.observer.on_phase(self.step, phase)


class StepResult(NamedTuple):
    """The rewards and advantages of a step, its updates, and what its rewards have used, by label."""

    scored: ScoredStep
    updates: list[UpdateResult]
    usage: Mapping[str, Mapping[str, float]]


class Learner:
    """What training changes, which is the policy, its optimizer and the reward histories, and how a step
    changes it.
    """

    def __init__(
        self,
        recipe: Recipe,
        policy: Policy,
        prompts: Sequence[PreparedPrompt],
        weights: Mapping[str, float],
        clock: Clock,
    ) -> None:
        self.policy, self._recipe, self._clock = policy, recipe, clock
        self.histories = RewardHistories(recipe.advantage, recipe.resolved_history, weights)
        self._optimizer = build_optimizer(policy, recipe.train)
        self._sampling = sampling_settings(recipe.rollout)
        self._labels = HistoryLabels(recipe.history, prompts, recipe.seed)
        self._batches = Batches(prompts, recipe.train.prompts_per_step, recipe.seed, recipe.train.sampler)
        self.rollout_budget = rollout_budget(self._sampling, clock.warn)
        self.update_budget = update_budget(recipe.train, clock.warn)
        if recipe.train.gradient_checkpointing:
            policy.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def step(self, step: int, scorer: Scorer) -> StepResult:
        """One step of P-GRPO: sample, score, normalise, update."""
        recipe = self._recipe
        self._clock.enter("rollout")
        pending = scorer.start()
        rollouts = sample(
            self.policy,
            self._batches.at(step),
            self._sampling,
            seed=derive_seed(recipe.seed, "rollout", step),
            budget=self.rollout_budget,
            on_batch=pending.add,
        )

        self._clock.enter("reward")
        scores_N = pending.scores(rollouts.completions())
        labels_P = self._labels.of(rollouts.prompts)
        labels_N = [label for label in labels_P for _ in range(rollouts.num_generations)]
        advantages = self.histories.advantages(
            scores_N, labels_N, num_generations=rollouts.num_generations, step=step
        )

        self._clock.enter("training")
        updates = [
            policy_update(
                self.policy,
                self._optimizer,
                rollouts,
                advantages,
                recipe,
                step=step,
                update=update,
                budget=self.update_budget,
            )
            for update in range(recipe.train.updates_per_rollout)
        ]
        random_groups_P = labels_P if self._labels.random else None
        scored = scored_step(step, rollouts, scores_N, advantages, random_groups_P=random_groups_P)
        return StepResult(scored, updates, pending.usage())

    def state(self) -> TrainingState:
        """What a checkpoint holds."""
        return training_state(self.policy, self._optimizer, self.histories)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Load a checkpoint as `restore` does."""
        restore(checkpoint, self.policy, self._optimizer, self.histories)


def train_policy(
    run: RunDirectory,
    recipe: Recipe,
    policy: Policy,
    prompts: Sequence[PreparedPrompt],
    rewards: RewardSum,
    *,
    checkpoint: Checkpoint | None,
    observer: Observer,
    stop_requested: Callable[[], bool] = lambda: False,
    trackers: Sequence[Tracker] = (),
    curve: HeldOutCurve | None = None,
) -> None:
    """Train from `checkpoint` (None: from the start) to the recipe's last step and leave `adapter/` behind.

    `policy` carries the checkpoint's adapter; `curve` evaluates it on held-out prompts now and then. When
    `stop_requested` answers True the step at hand is finished and saved, and Interrupted is raised. Raises
    TrainingError, RewardError or CheckpointError where it cannot continue; the steps before a reward that
    failed are saved.
    """
    clock = Clock(observer)
    learner = Learner(recipe, policy, prompts, rewards.weights, clock)
    if checkpoint is not None:
        learner.restore(checkpoint)
    done = checkpoint.step if checkpoint else 0
    best = Best.of(run, recipe.train)
    missing, spared = _rewind(run, recipe, learner.histories, curve, best, checkpoint, observer)
    saver = Saver(run, learner.state, keep=recipe.train.keep_checkpoints, saved=done, spared=spared)
    with (
        deterministic(recipe.train, strict=False),
        HistoryStore(run.history_path) as store,
        RunLog(run.metrics_path, trackers) as log,
        Scorer(rewards) as scorer,
        saver,
    ):
        if curve is not None and (checkpoint is None or done in missing) and curve.due(done):
            clock.enter("evaluation")
            curve.record(done, policy, scorer, learner.rollout_budget)
            clock.enter(None)
        for step in range(done + 1, recipe.train.steps + 1):
            if best is not None and best.exhausted():
                break
            clock.begin(step)
            saver.done = step - 1
            made = learner.step(step, scorer)

            clock.enter("save")
            run.require_lock()
            groups = learner.histories.record(store, made.scored)
            failure = None
            if curve is not None and curve.due(step):
                clock.enter("evaluation")
                try:
                    curve.record(step, policy, scorer, learner.rollout_budget)
                except RewardError as error:
                    # The step itself is done: it is saved before the run ends.
                    failure = error
            clock.enter(None)
            budgets = {"rollout": learner.rollout_budget.tokens, "training": learner.update_budget.tokens}
            learning_rate = recipe.train.learning_rate_at(step)
            record = step_record(made.scored, made.updates, learning_rate, clock.seconds, budgets, made.usage)
            run.require_lock()
            log.append(record)
            stopping = stop_requested()
            done, over = step, step == recipe.train.steps or (best is not None and best.exhausted())
            due = over or step % recipe.train.save_every == 0 or (best is not None and best.step() == step)
            if stopping or failure or due:
                # Last: a run continues from a checkpoint, so all records up to it must be there before it is.
                saver.save(step)
            observer.on_step(record, groups)
            if failure:
                raise failure
            if stopping and not over:
                raise Interrupted(f"stopped after step {step} of {recipe.train.steps}; everything is saved")
    finish(run, recipe, policy, learner.histories.history, best, done=done, observer=observer)


def _rewind(
    run: RunDirectory,
    recipe: Recipe,
    histories: RewardHistories,
    curve: HeldOutCurve | None,
    best: Best | None,
    checkpoint: Checkpoint | None,
    observer: Observer,
) -> tuple[list[int], Callable[[], set[int | None]]]:
    """Put the run's records back to `checkpoint` (None: to the start).

    Returns the steps whose evaluation is due and not there, and what says which checkpoints are kept whatever
    their age: that of the best step, and all that are there now where lost evaluations make it uncertain
    which step is the best one.
    """
    done = checkpoint.step if checkpoint else 0
    # The curve first, since it says which checkpoint is the best one.
    missing = curve.rewind(done if checkpoint else -1) if curve else []
    at_risk: set[int] = set()
    # The step `done` is evaluated again.
    if lost := [step for step in missing if step != done]:
        observer.on_message(f"warning: {lost_evaluations(run, lost, choosing=best is not None)}")
        at_risk = checkpoint_steps(run) if best else at_risk

    def spared() -> set[int | None]:
        return {best.step() if best else None, *at_risk}

    keep = recipe.train.keep_checkpoints
    for warning in rewind(run, done, *histories.rows(), keep=keep, spared=spared()):
        observer.on_message(f"warning: {warning}")
    return missing, spared


def finish(
    run: RunDirectory,
    recipe: Recipe,
    policy: Policy,
    history: RewardHistory,
    best: Best | None,
    *,
    done: int,
    observer: Observer,
) -> None:
    """Leave `adapter/` behind: that of the last step, or of the best evaluation where the recipe keeps it."""
    own_template = None if recipe.model.chat_template is None else policy.tokenizer.chat_template
    adapter, kept = Adapter(*adapter_state(policy.model)), None
    if best is not None:
        adapter, kept, sentence = best.adapter(adapter, done)
        ended = ", where train.stop_after ends training" if done < recipe.train.steps else ""
        observer.on_message(f"after step {done} of {recipe.train.steps}{ended}: {sentence}")
    card = model_card(recipe, history, step=done if kept is None else kept, done=done)
    finish_adapter(run, adapter, card, chat_template=own_template, step=kept)


def scored_step(
    step: int,
    rollouts: Rollouts,
    scores_N: Sequence[Score],
    advantages: Advantages,
    *,
    random_groups_P: Sequence[str] | None = None,
) -> ScoredStep:
    """What the run's records need to know of a step. `random_groups_P`: the preference group drawn for the
    history of each prompt, if they are drawn.
    """
    sampled = rollouts.sampling_logprobs_N_T[rollouts.completion_mask_N_T]
    return ScoredStep(
        step=step,
        num_generations=rollouts.num_generations,
        prompt_ids_P=[prompt.prompt_id for prompt in rollouts.prompts],
        preference_groups_P=[prompt.preference_group for prompt in rollouts.prompts],
        random_groups_P=random_groups_P,
        texts_N=rollouts.texts_N,
        lengths_N=rollouts.lengths_N,
        finished_N=rollouts.finished_N.tolist(),
        scores_N=scores_N,
        advantages_N=advantages.advantages_N.tolist(),
        clipped_fraction=advantages.clipped_N.double().mean().item(),
        entropy=-sampled.mean().item(),
    )


def training_state(policy: Policy, optimizer: Optimizer, histories: RewardHistories) -> TrainingState:
    """What a checkpoint holds."""
    return TrainingState(
        adapter=Adapter(*adapter_state(policy.model)),
        optimizer=optimizer_state(policy, optimizer),
        loss_scale=policy.loss_scale.value if policy.dtype == torch.float16 else None,
        histories=histories.states(),
    )


def restore(checkpoint: Checkpoint, policy: Policy, optimizer: Optimizer, histories: RewardHistories) -> None:
    """Load what the checkpoint holds, except for the adapter. Raises CheckpointError if it does not fit."""
    with checkpoint.readable():
        histories.load_states(checkpoint.history_state)
        policy.loss_scale.restore(checkpoint.loss_scale())
        restore_optimizer(policy, optimizer, checkpoint.optimizer_state())
