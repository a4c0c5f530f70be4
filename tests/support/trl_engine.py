"""The same rollouts for the native engine and for TRL, and small trainers of TRL's."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers.trainer_callback import PrinterCallback
from trl import GRPOConfig

from pgrpo_cli.engines.trl import PGRPOTrainer
from pgrpo_cli.histories import RewardHistories
from pgrpo_cli.model.policy import Policy
from pgrpo_cli.model.rollout.sample import sample
from pgrpo_cli.model.rollout.sampling import sampling_settings
from pgrpo_cli.model.rollouts import Rollouts
from pgrpo_cli.model.update.optimizer import build_optimizer
from pgrpo_cli.model.update.policy_update import policy_update
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.rewards.base import Score
from tests.support.policies import make_prompts
from tests.support.recipes import changed

G, T, STEPS = 4, 12, 3
PROMPTS = (9, 5, 7, 6)
"""Lengths of the prompts of a step, in two preference groups."""
WEIGHTS = {"vowels": 1.0, "small": 0.25}
LOSS_TYPES = {"sequence_mean": "grpo", "token_mean": "dapo", "constant": "dr_grpo"}

Rewards = Mapping[str, Callable[[Sequence[int]], float | None]]


def vowels(ids: Sequence[int]) -> float:
    """A reward that differs between most completions, and is the same number in float32."""
    return round(64 * sum(i % 5 for i in ids) / len(ids)) / 64


def small(ids: Sequence[int]) -> float:
    return 100.0 * sum(i < 60 for i in ids)


def of_odd_starts_only(ids: Sequence[int]) -> float | None:
    return vowels(ids) if ids[0] % 2 else None


def recipe_of(**values: Any) -> Recipe:
    """A recipe for steps of `PROMPTS`, with dotted keys (`loss__beta`) set to other values."""
    common = {
        "model__quantization__type": "none",
        "rollout__num_generations": G,
        "rollout__max_completion_tokens": T,
        "train__steps": STEPS,
        "train__prompts_per_step": len(PROMPTS),
        "train__learning_rate": 1e-2,
        "train__schedule": "constant",
    }
    return Recipe.model_validate(changed(**{**common, **values}))


@dataclass
class NativeSteps:
    """What the native engine made of a few steps."""

    histories: RewardHistories
    rollouts: list[Rollouts] = field(default_factory=list)
    advantages: list[list[float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)


def score(ids: Sequence[int], rewards: Rewards) -> Score:
    """The weighted sum of the rewards that apply; NaN if none does."""
    given = {name: value for name, reward in rewards.items() if (value := reward(ids)) is not None}
    if not given:
        return Score(math.nan, {}, dict.fromkeys(rewards, math.nan))
    return Score(sum(WEIGHTS[name] * value for name, value in given.items()), given, given)


def native_steps(policy: Policy, recipe: Recipe, rewards: Rewards) -> NativeSteps:
    """The native engine's steps; the policy is trained."""
    prompts, optimizer = make_prompts(PROMPTS), build_optimizer(policy, recipe.train)
    weights = {name: WEIGHTS[name] for name in rewards}
    done = NativeSteps(RewardHistories(recipe.advantage, recipe.history, weights))
    for step in range(1, recipe.train.steps + 1):
        rollouts = sample(policy, prompts, sampling_settings(recipe.rollout), seed=step)
        scores_N = [score(ids, rewards) for ids in completion_ids(rollouts)]
        advantages = done.histories.advantages(
            scores_N, rollouts.preference_groups_N, num_generations=G, step=step
        )
        update = policy_update(policy, optimizer, rollouts, advantages, recipe, step=step)
        done.rollouts.append(rollouts)
        done.advantages.append(advantages.advantages_N.tolist())
        done.losses.append(update.loss)
        done.grad_norms.append(update.grad_norm)
    return done


def completion_ids(rollouts: Rollouts) -> list[list[int]]:
    """The tokens of each completion."""
    pairs = zip(rollouts.completion_ids_N_T, rollouts.lengths_N, strict=True)
    return [ids_T[:length].tolist() for ids_T, length in pairs]


def as_trl_reward(name: str, reward: Callable[[Sequence[int]], float | None]) -> Any:
    """A reward of token ids as a reward function of TRL's."""

    def function(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float | None]:
        return [reward(ids) for ids in completion_ids]

    function.__name__ = name
    return function


class Watched(PGRPOTrainer):
    """Keeps the advantages of every step, of this process."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.seen: list[list[float]] = []
        super().__init__(*args, **kwargs)
        self.remove_callback(PrinterCallback)

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        self.seen.append(output["advantages"].tolist())
        return output


def arguments(folder: Path, **values: Any) -> GRPOConfig:
    """Arguments for small trainers on a CPU."""
    common: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": G * len(PROMPTS),
        "num_generations": G,
        "max_completion_length": T,
        "max_steps": STEPS,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "weight_decay": 0.0,
        # TRL weighs the KL penalty by the ratio, which changes its gradient, though not its value.
        "use_bias_correction_kl": False,
        "shuffle_dataset": False,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
    }
    return GRPOConfig(**{**common, **values})


def rows_of(steps: int = STEPS) -> Dataset:
    """The prompts of `PROMPTS` for each step, in order."""
    prompts = make_prompts(PROMPTS) * steps
    return Dataset.from_list(
        [{"prompt": p.prompt_id, "preference_group": p.preference_group} for p in prompts]
    )


def trl_steps(
    policy: Policy, recipe: Recipe, native: NativeSteps, rewards: Rewards, folder: Path, **values: Any
) -> Watched:
    """TRL's steps on the rollouts of the native engine; `policy` is a copy of what that began with."""
    step = iter(native.rollouts)

    def replay(prompts: Sequence[str], trainer: Any) -> dict[str, Any]:
        rollouts = next(step)
        assert list(prompts) == [p.prompt_id for p in rollouts.prompts for _ in range(G)]
        return {
            "prompt_ids": [list(p.input_ids) for p in rollouts.prompts for _ in range(G)],
            "completion_ids": completion_ids(rollouts),
            "logprobs": None,
        }

    trainer = Watched(
        model=policy.model,
        reward_funcs=[as_trl_reward(name, reward) for name, reward in rewards.items()],
        args=arguments(
            folder,
            beta=recipe.loss.beta,
            loss_type=LOSS_TYPES[recipe.resolved_loss.aggregation],
            reward_weights=[WEIGHTS[name] for name in rewards],
            **values,
        ),
        train_dataset=rows_of(),
        processing_class=policy.tokenizer,
        rollout_func=replay,
        advantage=recipe.advantage,
        history=recipe.history,
    )
    if recipe.loss.beta:
        # The reference of a run is the base model; TRL takes the adapter that it is given.
        trainer.accelerator.unwrap_model(trainer.model).delete_adapter("ref")
    trainer.train()
    return trainer


def copied(policy: Policy) -> Policy:
    """The same policy with weights of its own."""
    return Policy(copy.deepcopy(policy.model), policy.tokenizer, torch.device("cpu"))
