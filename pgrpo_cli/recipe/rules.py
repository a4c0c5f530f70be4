"""Rules between keys, each checked as soon as the sections that it reads are valid by themselves.

A rule yields what breaks it, with the remedy. A hint is a legal setting that is seldom meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .data import DataSection, PersonasSource
from .messages import KeyPath, show
from .model import ModelSection
from .rewards import LengthReward, PersonasReward, RegexReward, RewardBase
from .schema import Recipe
from .training import AdvantageSection, HistorySection, RolloutSection, TrainSection, WindowHistory

Rewards = Mapping[int, RewardBase]
"""The valid rewards by their place in the list."""


@dataclass(frozen=True)
class Violation:
    """A broken rule at `path`: the value found there, and the rule with its remedy."""

    path: KeyPath
    found: Any
    rule: str

    def __str__(self) -> str:
        return f"found {show(self.found)}; {self.rule}"


Check = Callable[..., Iterator[Violation]]
RULES: list[tuple[tuple[str, ...], Check]] = []
"""Names of the sections that a rule reads, which are its arguments, and the rule."""


def _rule(check: Check) -> Check:
    RULES.append((tuple(name for name in check.__annotations__ if name != "return"), check))
    return check


def violations(sections: Mapping[str, Any]) -> Iterator[Violation]:
    """All broken rules among the sections given by name; `rewards` is a mapping from index to reward."""
    for names, check in RULES:
        if all(name in sections for name in names):
            yield from check(*(sections[name] for name in names))


@_rule
def custom_estimator(advantage: AdvantageSection) -> Iterator[Violation]:
    """Baseline and scale are chosen by `custom` and by nothing else."""
    custom = advantage.estimator == "custom"
    for key, value in (("baseline", advantage.baseline), ("scale", advantage.scale)):
        if custom and value is None:
            yield Violation(("advantage", key), value, "required with estimator 'custom'; set it")
        if not custom and value is not None:
            remedy = f"remove it, or set advantage.estimator to 'custom' (found {advantage.estimator!r})"
            yield Violation(("advantage", key), value, f"allowed with estimator 'custom' only; {remedy}")


@_rule
def window_reaches_min_count(history: HistorySection) -> Iterator[Violation]:
    """A window shorter than `min_count` would never be used."""
    if (
        history.update == "after"
        and isinstance(history.kind, WindowHistory)
        and history.kind.size < history.min_count
    ):
        yield Violation(
            ("history", "kind", "size"),
            history.kind.size,
            f"with update 'after' must be at least history.min_count ({history.min_count}), "
            "or the history is never used; raise the one or lower the other",
        )


@_rule
def warm_up_ends(train: TrainSection) -> Iterator[Violation]:
    """The learning rate reaches its peak within the run."""
    if train.warmup_steps > train.steps:
        remedy = f"set train.warmup_steps to {train.steps} or less"
        rule = f"must not be greater than train.steps ({train.steps}); {remedy}"
        yield Violation(("train", "warmup_steps"), train.warmup_steps, rule)


@_rule
def random_heads(model: ModelSection) -> Iterator[Violation]:
    """Heads share the width equally, and rotary positions pair the features of each."""
    random = model.random
    if random.hidden_size % (2 * random.num_heads):
        rule = (
            f"twice the number of heads must divide model.random.hidden_size ({random.hidden_size}); "
            "change the one or the other"
        )
        yield Violation(("model", "random", "num_heads"), random.num_heads, rule)


@_rule
def random_context(model: ModelSection, data: DataSection, rollout: RolloutSection) -> Iterator[Violation]:
    """The random model's context holds the longest prompt and its completion."""
    longest = data.max_prompt_tokens + rollout.max_completion_tokens
    if model.id == "random" and model.random.context < longest:
        rule = (
            f"must hold data.max_prompt_tokens + rollout.max_completion_tokens ({longest}); "
            "raise it, or lower one of them"
        )
        yield Violation(("model", "random", "context"), model.random.context, rule)


@_rule
def model_id(model: ModelSection) -> Iterator[Violation]:
    """`package:` names a file, and only a hub model has revisions."""
    package, slash, file = model.id.removeprefix("package:").partition("/")
    if model.id.startswith("package:") and not (package and slash and file):
        yield Violation(
            ("model", "id"), model.id, "must be package:PACKAGE/FILE, the file's path inside the package"
        )
    local = model.id == "random" or model.id.startswith("package:") or model.id.endswith(".gguf")
    if local and model.revision is not None:
        rule = f"only a model of a hub has revisions (model.id is {model.id!r}); remove it"
        yield Violation(("model", "revision"), model.revision, rule)


@_rule
def personas_reward_needs_personas(rewards: Rewards, data: DataSection) -> Iterator[Violation]:
    """The personas reward scores what the personas source asks for."""
    for index, reward in rewards.items():
        if isinstance(reward, PersonasReward) and not isinstance(data.source, PersonasSource):
            rule = (
                f"scores the prompts of data.source.type 'personas' only (found {data.source.type!r}); "
                "use another reward or that source"
            )
            yield Violation(("rewards", index, "type"), reward.type, rule)


@_rule
def labels_differ(rewards: Rewards) -> Iterator[Violation]:
    """Parts are recorded under the reward's label."""
    first: dict[str, int] = {}
    for index, reward in rewards.items():
        if reward.label in first:
            rule = f"rewards.{first[reward.label]} is recorded under that name already; give this one another name"
            yield Violation(("rewards", index, "name"), reward.label, rule)
        first.setdefault(reward.label, index)


@_rule
def some_reward_counts(rewards: Rewards) -> Iterator[Violation]:
    """A sum of nothing teaches nothing."""
    if rewards and all(reward.weight == 0 for reward in rewards.values()):
        yield Violation(
            ("rewards", min(rewards), "weight"), 0, "every reward has weight 0; set one to another number"
        )


@_rule
def reward_bounds(rewards: Rewards) -> Iterator[Violation]:
    """What one reward's own keys say to each other."""
    for index, reward in rewards.items():
        if isinstance(reward, LengthReward) and reward.min > reward.max:
            rule = f"must not be greater than max ({reward.max}); swap them"
            yield Violation(("rewards", index, "min"), reward.min, rule)
        if isinstance(reward, PersonasReward) and reward.style_weight + reward.genre_weight == 0:
            rule = "style_weight and genre_weight are both 0, so every reward is 0; raise one of them"
            yield Violation(("rewards", index, "style_weight"), reward.style_weight, rule)
        if isinstance(reward, RegexReward) and reward.limit > 1 and not reward.count:
            rule = "counts matches, which only `count: true` does; set count to true or remove limit"
            yield Violation(("rewards", index, "limit"), reward.limit, rule)


def hints(recipe: Recipe) -> list[str]:
    """Legal settings of a valid recipe that are seldom meant, each with what to do."""
    found = []
    if isinstance(recipe.data.source, PersonasSource) and not any(
        isinstance(reward, PersonasReward) for reward in recipe.rewards
    ):
        found.append(
            "data.source is 'personas' but no reward is; add {type: personas} to rewards to score their tastes"
        )
    if recipe.model.id != "random" and recipe.model.random != type(recipe.model.random)():
        found.append(f"model.random has no effect: model.id is {recipe.model.id!r}, not 'random'")
    default = HistorySection().min_count
    if recipe.history.update == "before" and recipe.history.min_count != default:
        found.append("history.min_count has no effect with history.update 'before'")
    return found
