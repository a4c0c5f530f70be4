"""The recipe: one immutable object with all settings of a run. Rules between its sections, and hints."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import Field

from .base import Section, Violation
from .data import DataSection
from .engine import Engine, NativeEngine, trl_can_express
from .evaluation import EvalSection
from .judge import JudgeSection
from .model import AdapterSection, ModelSection, RandomModel
from .public_sets import MovielensSource
from .reward_text import PersonasReward
from .rewards import JudgeReward, Reward
from .sources import ColumnMapping, PersonasSource
from .training import (
    AdvantageSection,
    HistorySection,
    LogSection,
    LossSection,
    RolloutSection,
    TrainSection,
)


class Recipe(Section):
    """Everything that a run depends on."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=200,
        description="Name of the recipe; the run is in `runs/<name>`.",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of all randomness.")
    model: ModelSection = Field(description="The base model.")
    adapter: AdapterSection = Field(AdapterSection(), description="The LoRA adapter.")
    data: DataSection = Field(description="Prompts with preference groups.")
    rewards: tuple[Reward, ...] = Field(min_length=1, description="Rewards, summed by weight.")
    rollout: RolloutSection = Field(RolloutSection(), description="Sampling.")
    advantage: AdvantageSection = Field(AdvantageSection(), description="From rewards to advantages.")
    history: HistorySection = Field(HistorySection(), description="The reward history.")
    loss: LossSection = Field(LossSection(), description="The loss.")
    train: TrainSection = Field(TrainSection(), description="The loop.")
    eval: EvalSection = Field(EvalSection(), description="Evaluation.")
    log: LogSection = Field(LogSection(), description="Trackers.")
    engine: Engine = Field(NativeEngine(), description="What computes the steps: pgrpo itself, or TRL.")

    @property
    def resolved_history(self) -> HistorySection:
        """The history, without limits where the range of every reward is known. A reward inside its range is
        no outlier, and limits that follow from limited rewards would make rare successes ever smaller.
        """
        bounded = all(reward.value_range is not None for reward in self.rewards if reward.weight != 0)
        return self.history.model_copy(update={"winsorize": None}) if bounded else self.history

    @property
    def resolved_loss(self) -> LossSection:
        """The loss, with the aggregation that `auto` stands for."""
        if self.loss.aggregation != "auto":
            return self.loss
        aggregation = self.advantage.resolved_estimator.aggregation
        return self.loss.model_copy(update={"aggregation": aggregation})


def broken_rules(sections: Mapping[str, Any]) -> Iterator[Violation]:
    """The broken rules between valid sections. The parameters of a rule are the sections that it reads."""
    for rule in RULES:
        read = inspect.signature(rule).parameters
        if read.keys() <= sections.keys():
            yield from rule(**{name: sections[name] for name in read})


def random_context(model: ModelSection, data: DataSection, rollout: RolloutSection) -> Iterator[Violation]:
    """The context of the random model must hold the longest prompt and its completion."""
    longest = data.max_prompt_tokens + rollout.max_completion_tokens
    if model.id == "random" and model.random.context < longest:
        rule = (
            f"must hold data.max_prompt_tokens + rollout.max_completion_tokens ({longest}); "
            "raise it, or lower one of them"
        )
        yield Violation(("model", "random", "context"), model.random.context, rule)


def labels_differ(rewards: tuple[Reward, ...]) -> Iterator[Violation]:
    """The parts of a reward are recorded under its label."""
    first: dict[str, int] = {}
    for index, reward in enumerate(rewards):
        if reward.label in first:
            other = f"rewards.{first[reward.label]}"
            rule = f"{other} is recorded under that name already; name this one differently"
            yield Violation(("rewards", index, "name"), reward.label, rule)
        first.setdefault(reward.label, index)


def some_reward_counts(rewards: tuple[Reward, ...]) -> Iterator[Violation]:
    """At least one reward must have a non-zero weight."""
    if not any(reward.weight for reward in rewards):
        yield Violation(("rewards", 0, "weight"), 0, "every reward has weight 0; give one another weight")


def personas_reward_needs_personas(data: DataSection, rewards: tuple[Reward, ...]) -> Iterator[Violation]:
    """The personas reward scores what the personas source asks for."""
    source = data.source.type
    for index, reward in enumerate(rewards):
        if isinstance(reward, PersonasReward) and source != "personas":
            rule = (
                f"scores the prompts of data.source.type 'personas' only (found {source!r}); "
                "use another reward, or that source"
            )
            yield Violation(("rewards", index, "type"), "personas", rule)


def best_needs_evaluations(train: TrainSection, eval: EvalSection) -> Iterator[Violation]:
    """The best step is that of an evaluation during training."""
    if train.keep_best is not None and eval.every is None:
        rule = "compares evaluations during training, of which there are none; set eval.every"
        yield Violation(("train", "keep_best"), train.keep_best, rule)


def random_groups_need_a_history(advantage: AdvantageSection, history: HistorySection) -> Iterator[Violation]:
    """A control differs from the run that it is the control of."""
    if history.preference_groups == "random" and not advantage.resolved_estimator.uses_history:
        rule = (
            f"advantage.estimator {advantage.estimator!r} uses no reward history, so random preference "
            "groups would change nothing; remove it, or take an estimator with a history, such as 'pgrpo'"
        )
        yield Violation(("history", "preference_groups"), "random", rule)


RULES: tuple[Callable[..., Iterator[Violation]], ...] = (
    random_context,
    labels_differ,
    some_reward_counts,
    personas_reward_needs_personas,
    best_needs_evaluations,
    random_groups_need_a_history,
    trl_can_express,
)


def _judges(recipe: Recipe) -> Iterator[tuple[str, JudgeSection]]:
    """Every judge of the recipe, by its place."""
    for index, reward in enumerate(recipe.rewards):
        if isinstance(reward, JudgeReward):
            yield f"rewards.{index}", reward
    if recipe.eval.judge is not None:
        yield "eval.judge", recipe.eval.judge


def hints(recipe: Recipe) -> list[str]:
    """Valid settings that are rarely intended, each with what to do."""
    found = []
    if isinstance(recipe.data.source, PersonasSource) and not any(
        isinstance(reward, PersonasReward) for reward in recipe.rewards
    ):
        found.append("data.source is 'personas' and no reward is: add {type: personas} to score their tastes")
    source = recipe.data.source
    if isinstance(source, ColumnMapping) and source.template is not None:
        fields = type(source).model_fields
        for key in ("prompt_column", "messages_column", "drop_last_assistant"):
            if getattr(source, key) != fields[key].default:
                found.append(f"data.source.{key} has no effect with data.source.template")
    if recipe.model.id != "random" and recipe.model.random != RandomModel():
        found.append(f"model.random has no effect: model.id is {recipe.model.id!r}, not 'random'")
    for place, judge in _judges(recipe):
        if judge.api_key_env and judge.base_url.startswith("http://"):
            found.append(f"{place}.base_url begins with http://: the key is sent unencrypted")
    if recipe.history.update == "before" and recipe.history.min_count != HistorySection().min_count:
        found.append("history.min_count has no effect with history.update 'before'")
    if recipe.history.winsorize != recipe.resolved_history.winsorize:
        found.append(
            "history.winsorize has no effect: the range of every reward is known, so none is an outlier"
        )
    cut = MovielensSource.model_fields["cut"].default
    if isinstance(source, MovielensSource) and source.holdout == "last" and source.cut != cut:
        found.append("data.source.cut has no effect with data.source.holdout 'last'")
    return found
